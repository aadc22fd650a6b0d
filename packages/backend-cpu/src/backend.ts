/** Puts the kernels together. Knows which kernels a level has, not how any of them works. */
import {
  type Backend,
  type DType,
  type FusedKernels,
  type InPlaceKernels,
  PeftError,
  type TypedArray,
} from "@peftjs/core"
import { adamw } from "./adamw.ts"
import { createAttention, createAttentionBackward } from "./attention.ts"
import { createMemory, dataOf, type Memory } from "./buffers.ts"
import { fastExp } from "./exp.ts"
import type { Gemm } from "./gemm.ts"
import { createLayerNorm, createLayerNormBackward } from "./layer-norm.ts"
import { createLogSumExp } from "./log-sum-exp.ts"
import { createMap } from "./map.ts"
import { createMatmul } from "./matmul.ts"
import { createConcat, createPermute, createSlice } from "./move.ts"
import { createPackedMatmul, createUnpack } from "./packed.ts"
import { fillRandom } from "./random.ts"
import { createReduce } from "./reduce.ts"
import { createRmsNorm, createRmsNormBackward } from "./rms-norm.ts"
import { createRope } from "./rope.ts"
import { createGather, createScatterAdd } from "./rows.ts"
import { createSoftmax } from "./softmax.ts"

/** What runs inside a CPU backend, for reports. */
export interface CpuInfo {
  readonly kernels: "reference" | "wasm" | "blas"
  /** blas: path of the library; the core type it chose; threads it uses. */
  readonly library?: string
  readonly core?: string
  readonly threads?: number
  /** wasm: whether products use fused multiply-add. */
  readonly relaxedSimd?: boolean
}

export interface CpuBackend extends Backend {
  readonly info: CpuInfo
}

const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"]

/** Indices inside one buffer stay within 31 bits, which keeps loops in integer registers. */
export const defaultMaxBufferBytes: number = 2 ** 31

export function createBackend(gemm: Gemm, info: CpuInfo, maxBufferBytes: number = defaultMaxBufferBytes): CpuBackend {
  const memory = createMemory(maxBufferBytes)
  return {
    name: "cpu",
    specVersion: 1,
    info,
    supports: { dtypes, maxBufferBytes },
    upload(data, dtype) {
      if (!dtypes.includes(dtype)) {
        throw new PeftError("E_UNSUPPORTED", `[backend-cpu] cannot hold ${dtype}; it holds ${dtypes.join(", ")}`)
      }
      const buffer = memory.alloc(dtype, data.length)
      ;(buffer.data as TypedArray).set(data)
      return buffer
    },
    free: (buffer) => memory.free(buffer),
    read: async (buffer) => dataOf(buffer).slice(),
    flush: async () => {},
    kernels: {
      map: createMap(memory, { exp: info.kernels === "reference" ? Math.exp : fastExp }),
      reduce: createReduce(memory),
      matmul: createMatmul(memory, gemm),
      gather: createGather(memory),
      scatterAdd: createScatterAdd(memory),
      permute: createPermute(memory),
      slice: createSlice(memory),
      concat: createConcat(memory),
      randomBits(key, n) {
        const out = memory.alloc("u32", n)
        fillRandom(out.data, key)
        return out
      },
      // The reference has none of these, so that core's decompositions are run somewhere.
      ...(info.kernels === "reference" ? {} : fused(memory, gemm)),
    },
  }
}

function fused(memory: Memory, gemm: Gemm): Partial<FusedKernels> & InPlaceKernels {
  return {
    softmax: createSoftmax(memory),
    logSumExp: createLogSumExp(memory),
    rmsNorm: createRmsNorm(memory),
    rmsNormBackward: createRmsNormBackward(memory),
    layerNorm: createLayerNorm(memory),
    layerNormBackward: createLayerNormBackward(memory),
    rope: createRope(memory),
    attention: createAttention(memory, gemm),
    attentionBackward: createAttentionBackward(memory, gemm),
    packedMatmul: createPackedMatmul(memory, gemm),
    unpack: createUnpack(memory),
    adamw,
  }
}
