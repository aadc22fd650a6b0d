/** Puts the kernels together. Knows which there are, not how any of them works. */
import { type Backend, type DType, PeftError } from "@peftjs/core"
import { createAdamW } from "./adamw.ts"
import { createAttention, createAttentionBackward } from "./attention.ts"
import type { DeviceInfo } from "./device.ts"
import { createLayerNorm, createLayerNormBackward } from "./layer-norm.ts"
import { createMap } from "./map.ts"
import { createMatmul } from "./matmul.ts"
import { createConcat, createPermute, createSlice } from "./move.ts"
import { createPackedMatmul, createUnpack } from "./packed.ts"
import { createRandomBits } from "./random.ts"
import { createReduce } from "./reduce.ts"
import { createRmsNorm, createRmsNormBackward } from "./rms-norm.ts"
import { createRope } from "./rope.ts"
import { createGather, createScatterAdd } from "./rows.ts"
import type { Runtime, RuntimeStats } from "./runtime.ts"
import { createLogSumExp, createSoftmax } from "./softmax.ts"

export interface WebgpuBackend extends Backend {
  readonly info: DeviceInfo
  readonly lost: Promise<Error>
  /** Buffers made and not freed. */
  live(): number
  stats(): RuntimeStats
  /** Ends the device: everything but free throws E_DEVICE_LOST afterwards. */
  destroy(): void
}

const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"]

export function createBackend(runtime: Runtime, info: DeviceInfo): WebgpuBackend {
  return {
    name: "webgpu",
    specVersion: 1,
    info,
    supports: { dtypes, maxBufferBytes: runtime.maxBufferBytes },
    lost: runtime.lost,
    live: runtime.live,
    stats: runtime.stats,
    destroy: runtime.destroy,
    upload(data, dtype) {
      if (dtypes.includes(dtype)) return runtime.upload(data, dtype)
      throw new PeftError("E_UNSUPPORTED", `[backend-webgpu] cannot hold ${dtype}; it holds ${dtypes.join(", ")}`)
    },
    free: runtime.free,
    read: runtime.read,
    flush: runtime.flush,
    kernels: {
      map: createMap(runtime),
      reduce: createReduce(runtime),
      matmul: createMatmul(runtime),
      gather: createGather(runtime),
      scatterAdd: createScatterAdd(runtime),
      permute: createPermute(runtime),
      slice: createSlice(runtime),
      concat: createConcat(runtime),
      randomBits: createRandomBits(runtime),
      softmax: createSoftmax(runtime),
      logSumExp: createLogSumExp(runtime),
      rmsNorm: createRmsNorm(runtime),
      rmsNormBackward: createRmsNormBackward(runtime),
      layerNorm: createLayerNorm(runtime),
      layerNormBackward: createLayerNormBackward(runtime),
      rope: createRope(runtime),
      attention: createAttention(runtime),
      attentionBackward: createAttentionBackward(runtime),
      packedMatmul: createPackedMatmul(runtime),
      unpack: createUnpack(runtime),
      adamw: createAdamW(runtime),
    },
  }
}
