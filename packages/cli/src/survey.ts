/** What this machine offers: processor, memory, backends with what they are made of, the cache of models. Nothing here fails; it says what does. */
import { existsSync, readdirSync } from "node:fs"
import { statfs } from "node:fs/promises"
import { availableParallelism, cpus, freemem, totalmem } from "node:os"
import { type CpuInfo, cpu, gemmGflops, mklIsFastest } from "@peftjs/backend-cpu/node"
import type { CudaInfo, CudaOptions } from "@peftjs/backend-cuda/node"
import type { DeviceInfo } from "@peftjs/backend-webgpu/node"
import { bestBackend, problemOf } from "./backend.ts"
import { hubSettings } from "./hub/settings.ts"
import { mebibytes } from "./memory/estimate.ts"

/** Something that works, or why it does not. */
type Found<T> = T | { readonly problem: string }

/** The JSON object of `peft doctor`. */
export interface Survey {
  readonly peft: string
  readonly node: string
  readonly platform: string
  readonly processor: { readonly model: string; readonly threads: number }
  /** MiB. */
  readonly memory: { readonly total_mb: number; readonly free_mb: number }
  readonly cpu: Cpu
  readonly webgpu: Gpus
  readonly cuda: Cuda
  /** What `--backend auto` takes. */
  readonly auto: { readonly backend: string; readonly why: string }
  readonly models: { readonly cache: string; readonly models: number; readonly free_mb: number | null }
}

/** Its kernels, best first, by where matrix products are computed. */
export interface Cpu {
  readonly blas: Found<CpuKernels>
  readonly wasm: Found<CpuKernels>
  /** What to install for a faster BLAS than the one that was found. */
  readonly faster?: string
}

export interface CpuKernels extends CpuInfo {
  /** Rate of f32 products of 1024 × 1024 matrices on all threads of these kernels. */
  readonly gflops: number
}

export interface Gpus {
  readonly adapters: readonly DeviceInfo[]
  /** What is missing where there is no adapter. */
  readonly missing?: string
  /** Whether kernels compute right on the one that `--backend webgpu` takes. */
  readonly self_test?: "passed" | { readonly problem: string }
}

export interface Cuda {
  /** What `--backend cuda` runs on; without a GPU what `--device cpu` does. */
  readonly runs?: CudaInfo
  /** Why there is no GPU or no TensorFlow, and what to do. */
  readonly missing?: string
  /** Whether kernels compute right on what `runs` names. */
  readonly self_test?: "passed" | { readonly problem: string }
}

export async function survey(version: string): Promise<Survey> {
  const { best, why } = await bestBackend().catch((error) => ({ best: { name: "none" }, why: problemOf(error) }))
  return {
    peft: version,
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    processor: { model: processor(), threads: availableParallelism() },
    memory: { total_mb: mebibytes(totalmem()), free_mb: mebibytes(freemem()) },
    cpu: await processorKernels(),
    webgpu: await gpus(),
    cuda: await cudaHere(),
    auto: { backend: best.name, why },
    models: await modelCache(),
  }
}

const processor = (): string => cpus()[0]?.model.trim() ?? "unknown"

async function processorKernels(): Promise<Cpu> {
  const [blas, wasm] = [await kernels("blas"), await kernels("wasm")]
  const mkl = "library" in blas && /mkl/.test(blas.library ?? "")
  if (mkl || !mklIsFastest(process.platform, processor())) return { blas, wasm }
  const faster =
    "Intel's MKL is often faster on this processor: pip install mkl, in the active Python environment or with " +
    "PEFT_BLAS=/path/of/libmkl_rt.so"
  return { blas, wasm, faster }
}

async function kernels(kind: "blas" | "wasm"): Promise<Found<CpuKernels>> {
  return found(async () => {
    const backend = await cpu({ kernels: kind })
    return { ...backend.info, gflops: Math.round(10 * (await gemmGflops(backend))) / 10 }
  })
}

async function gpus(): Promise<Gpus> {
  const looked = await found(async () => {
    const { probe, selfTest, webgpu } = await import("@peftjs/backend-webgpu/node")
    const probed = await probe()
    if (probed.adapters.length === 0) return probed
    const tested = await found(async () => {
      await selfTest(await webgpu())
      return "passed" as const
    })
    return { ...probed, self_test: tested }
  })
  return "problem" in looked ? { adapters: [], missing: looked.problem } : looked
}

async function cudaHere(): Promise<Cuda> {
  const onGpu = await found(async () => cudaOn({}))
  if (!("problem" in onGpu)) return onGpu
  // The same TensorFlow, where there is one: a process loads one.
  const onCpu = await found(async () => {
    const { findTensorFlow } = await import("@peftjs/backend-cuda/node")
    return cudaOn({ device: "cpu", library: findTensorFlow({ device: "gpu" }).folder })
  })
  return "problem" in onCpu ? { missing: onGpu.problem } : { ...onCpu, missing: onGpu.problem }
}

async function cudaOn(options: CudaOptions): Promise<Cuda> {
  const { cuda } = await import("@peftjs/backend-cuda/node")
  const { selfTest } = await import("@peftjs/backend-webgpu/node")
  const backend = await cuda(options)
  const tested = await found(async () => {
    await selfTest(backend)
    return "passed" as const
  })
  return { runs: backend.info, self_test: tested }
}

async function found<T>(look: () => Promise<T>): Promise<Found<T>> {
  try {
    return await look()
  } catch (error) {
    // The words of an option that nobody gave.
    return { problem: problemOf(error).replace(/^kernels is "blas" but /, "") }
  }
}

async function modelCache(): Promise<Survey["models"]> {
  const { cache } = hubSettings()
  const there = existsSync(cache)
  const models = there ? readdirSync(cache).filter((name) => name.startsWith("models--")).length : 0
  const disk = there ? await statfs(cache) : undefined
  return { cache, models, free_mb: disk ? mebibytes(disk.bavail * disk.bsize) : null }
}
