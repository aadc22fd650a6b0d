/** Tensors as files of bitsandbytes hold them, checked one by one, and config.json's quantization_config. Knows no single format. */
import { PeftError, type ValueType, type WeightFiles } from "@peftjs/core"

type Tensors = Parameters<WeightFiles["read"]>[3]

/** What files hold of one module's weight. */
export interface Given {
  readonly module: string
  readonly tensors: Tensors
}

/** torch's names of types. */
export const torchTypes = { float32: "f32", float16: "f16", bfloat16: "bf16" } as const

export const stateError = (what: string, wrong: string): PeftError =>
  new PeftError("E_QUANT_STATE", `[qlora] ${what}: ${wrong}. Fetch the folder again, or quantise its source anew`)

/** The bytes of a tensor, of whichever type: bitsandbytes may store them as another type's. Throws E_QUANT_STATE. */
export function bytesOf({ module, tensors }: Given, name: string, length?: number): Uint8Array {
  const data = tensors.get(name)?.data
  if (!data) throw stateError(`${module}.${name}`, "the tensor is missing")
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  if (length === undefined || bytes.length === length) return bytes
  throw stateError(`${module}.${name}`, `it has ${bytes.length} bytes, the layer's shape makes it ${length}`)
}

/** An F32 tensor. Throws E_QUANT_STATE. */
export function f32Of({ module, tensors }: Given, name: string, length: number): Float32Array {
  const found = tensors.get(name)
  if (!found) throw stateError(`${module}.${name}`, "the tensor is missing")
  if (found.dtype === "F32" && found.data.length === length) return found.data as Float32Array
  throw stateError(
    `${module}.${name}`,
    `it is ${found.dtype} [${found.shape}], the layer's shape makes it F32 [${length}]`,
  )
}

/** The same values. Throws E_NOT_FINITE. */
export function finite({ module }: Given, name: string, values: Float32Array): Float32Array {
  const at = values.findIndex((x) => !Number.isFinite(x))
  if (at < 0) return values
  throw new PeftError(
    "E_NOT_FINITE",
    `[qlora] ${module}.${name} holds ${values[at]} at ${at}; the file is broken: fetch it again, or quantise its source anew`,
  )
}

/** Refuses a map that is not the format's: codes would mean other values. Throws E_QUANT_STATE, E_QUANT_MAP. */
export function checkMap(given: Given, name: string, expected: Float32Array): void {
  const values = f32Of(given, name, expected.length)
  const at = values.findIndex((x, i) => !(Math.abs(x - (expected[i] as number)) <= 1e-6))
  if (at < 0) return
  throw new PeftError(
    "E_QUANT_MAP",
    `[qlora] ${given.module}.${name} holds ${values[at]} at ${at}, the format has ${expected[at]}; such codes are another format's`,
  )
}

/** quantization_config as transformers 5 writes it for bitsandbytes. */
export function quantisationConfig(
  { dtype, skipModules }: { readonly dtype: ValueType; readonly skipModules?: readonly string[] },
  own: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const compute = Object.entries(torchTypes).find(([, type]) => type === dtype)?.[0]
  const all = {
    _load_in_4bit: false,
    _load_in_8bit: false,
    bnb_4bit_compute_dtype: compute,
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: "fp4",
    bnb_4bit_use_double_quant: false,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: skipModules ?? null,
    llm_int8_threshold: 6.0,
    load_in_4bit: false,
    load_in_8bit: false,
    quant_method: "bitsandbytes",
  }
  return { ...all, ...own }
}
