/**
 * How model files hold weights that are not dense rows: the contract between a weight format and whoever reads and writes folders.
 * Must not know any format; names of tensors are those behind a module's path, "weight" and "weight.absmax".
 */
import type { LazyTensorInput, TensorData } from "@peftjs/safetensors"
import type { Backend } from "./backend.ts"
import type { TensorRef, Weight } from "./weight.ts"

/** The type of values that something packed stands for. */
export type ValueType = "f32" | "f16" | "bf16"

export interface WeightFiles {
  /** `quantization_config` of config.json, for a model whose other weights are of `dtype`; `skipModules` stay dense. */
  config(options: { readonly dtype: ValueType; readonly skipModules?: readonly string[] }): Record<string, unknown>
  /** Whether a `quantization_config` speaks of this format. */
  claims(config: Readonly<Record<string, unknown>>): boolean
  /** Of the tensors a file has of a module, those that hold its weight; undefined where the weight is not in this format. */
  names(present: readonly string[]): readonly string[] | undefined
  /** The weight [out, in] that those tensors hold. `module` is what to call it in messages. Throws E_QUANT_STATE, E_QUANT_MAP, E_NOT_FINITE. */
  read(
    backend: Backend,
    module: string,
    shape: readonly [number, number],
    tensors: ReadonlyMap<string, TensorData>,
    options?: { readonly source?: TensorRef },
  ): Weight
}

/** How a file holds one weight; its bytes are copied from the device when they are asked for. */
export type StoredWeight = ReadonlyMap<string, LazyTensorInput>
