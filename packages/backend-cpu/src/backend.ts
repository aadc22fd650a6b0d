/** Puts the kernels together. Knows which kernels a level has, not how any of them works. */
import { type Backend, type DType, type FusedKernels, hostArray, type InPlaceKernels, PeftError } from "@peftjs/core"
import { createAdamW } from "./adamw.ts"
import { createAttention, createAttentionBackward } from "./attention.ts"
import { createMemory, dataOf, type Memory } from "./buffers.ts"
import type { Gemm } from "./gemm.ts"
import { createHeap, type Heap } from "./heap.ts"
import { createLayerNorm, createLayerNormBackward } from "./layer-norm.ts"
import { createLogSumExp } from "./log-sum-exp.ts"
import { createMap, createMaps } from "./map.ts"
import { createMatmul, createSumOfProducts } from "./matmul.ts"
import { createConcat, createPermute, createSlice } from "./move.ts"
import { createPackedMatmul, createUnpack } from "./packed.ts"
import { createRandomBits } from "./random.ts"
import { createReduce } from "./reduce.ts"
import { createRmsNorm, createRmsNormBackward } from "./rms-norm.ts"
import { createRope } from "./rope.ts"
import { createGather, createScatterAdd } from "./rows.ts"
import { createSoftmax, createSoftmaxLogSumExp } from "./softmax.ts"

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

/** Without a heap (the reference, or an engine without WebAssembly SIMD) there are required kernels alone, in TypeScript. */
export function createBackend(
  gemm: Gemm,
  info: CpuInfo,
  maxBufferBytes: number = defaultMaxBufferBytes,
  heap: Heap | undefined = info.kernels === "reference" ? undefined : createHeap(),
): CpuBackend {
  const memory = createMemory(maxBufferBytes, heap)
  const product = (heap && gemm.on?.(heap)) ?? gemm
  return {
    name: "cpu",
    specVersion: 1,
    info,
    supports: { dtypes, maxBufferBytes },
    upload(data, dtype) {
      if (!dtypes.includes(dtype)) {
        throw new PeftError("E_UNSUPPORTED", `[backend-cpu] cannot hold ${dtype}; it holds ${dtypes.join(", ")}`)
      }
      return memory.upload(data, dtype)
    },
    free: (buffer) => memory.free(buffer),
    read: async (buffer) => {
      const copy = hostArray(buffer.dtype, buffer.length)
      copy.set(dataOf(buffer))
      return copy
    },
    flush: async () => {},
    kernels: {
      map: createMap(memory),
      reduce: createReduce(memory),
      matmul: createMatmul(memory, product),
      gather: createGather(memory),
      scatterAdd: createScatterAdd(memory),
      permute: createPermute(memory),
      slice: createSlice(memory),
      concat: createConcat(memory),
      randomBits: createRandomBits(memory),
      // The reference has no heap and none of these, so that core's decompositions are run somewhere.
      ...(heap ? fused(memory, heap, product) : {}),
    },
  }
}

function fused(memory: Memory, heap: Heap, gemm: Gemm): Partial<FusedKernels> & InPlaceKernels {
  return {
    maps: createMaps(memory, heap),
    softmax: createSoftmax(memory, heap),
    logSumExp: createLogSumExp(memory, heap),
    softmaxLogSumExp: createSoftmaxLogSumExp(memory, heap),
    rmsNorm: createRmsNorm(memory, heap),
    rmsNormBackward: createRmsNormBackward(memory, heap),
    layerNorm: createLayerNorm(memory, heap),
    layerNormBackward: createLayerNormBackward(memory, heap),
    rope: createRope(memory, heap),
    attention: createAttention(memory, heap, gemm),
    attentionBackward: createAttentionBackward(memory, heap, gemm),
    sumOfProducts: createSumOfProducts(memory, heap, gemm),
    packedMatmul: createPackedMatmul(memory, gemm),
    unpack: createUnpack(memory),
    adamw: createAdamW(heap),
  }
}
