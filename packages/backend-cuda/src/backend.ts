/** Puts the kernels together. Knows which there are, not how any of them works. */
import type { Backend, DType } from "@peftjs/core"
import { createAdamW } from "./adamw.ts"
import { createAttention, createAttentionBackward } from "./attention.ts"
import { createDevice, type DeviceStats } from "./device.ts"
import { createMap } from "./map.ts"
import { createMatmul } from "./matmul.ts"
import { createConcat, createPermute, createSlice } from "./move.ts"
import { createLayerNorm, createLayerNormBackward, createRmsNorm, createRmsNormBackward } from "./norms.ts"
import { createPackedMatmul, createUnpack } from "./packed.ts"
import { createRandomBits } from "./random.ts"
import { createReduce } from "./reduce.ts"
import { createRope } from "./rope.ts"
import { createGather, createScatterAdd } from "./rows.ts"
import { createLogSumExp, createSoftmax } from "./softmax.ts"
import type { TfDevice, TfRuntime } from "./tf-runtime.ts"

/** What runs inside a CUDA backend, for reports. */
export interface CudaInfo {
  /** "tfjs-node-gpu addon" or "TensorFlow C API". */
  readonly runtime: string
  /** TensorFlow's version. */
  readonly version: string
  /** Where ops run. */
  readonly device: TfDevice
}

export interface CudaBackend extends Backend {
  readonly info: CudaInfo
  /** Ops run, bytes copied and handles held, for measurements and tests. */
  stats(): DeviceStats
}

export interface BackendOptions {
  /** Largest buffer in bytes; 2 GiB unless told otherwise, so that positions in a buffer stay within 31 bits. */
  readonly maxBufferBytes?: number
}

const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"]

/** A backend on an open runtime, which it does not close. */
export function createBackend(runtime: TfRuntime, { maxBufferBytes = 2 ** 31 }: BackendOptions = {}): CudaBackend {
  const device = createDevice(runtime, dtypes, maxBufferBytes)
  return {
    name: "cuda",
    specVersion: 1,
    info: { runtime: runtime.name, version: runtime.version, device: runtime.device },
    supports: { dtypes, maxBufferBytes },
    upload: device.upload,
    free: device.free,
    read: async (buffer) => device.read(buffer),
    flush: async () => device.finish(),
    stats: device.stats,
    kernels: {
      map: createMap(device),
      reduce: createReduce(device),
      matmul: createMatmul(device),
      gather: createGather(device),
      scatterAdd: createScatterAdd(device),
      permute: createPermute(device),
      slice: createSlice(device),
      concat: createConcat(device),
      randomBits: createRandomBits(device),
      softmax: createSoftmax(device),
      logSumExp: createLogSumExp(device),
      rmsNorm: createRmsNorm(device),
      rmsNormBackward: createRmsNormBackward(device),
      layerNorm: createLayerNorm(device),
      layerNormBackward: createLayerNormBackward(device),
      rope: createRope(device),
      attention: createAttention(device),
      attentionBackward: createAttentionBackward(device),
      packedMatmul: createPackedMatmul(device),
      unpack: createUnpack(device),
      adamw: createAdamW(device),
    },
  }
}
