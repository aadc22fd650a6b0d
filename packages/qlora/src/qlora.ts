/** QLoRA as a value: a quantised base and LoRA over it (Dettmers et al. 2023, arXiv 2305.14314). Knows no model and no device. */
import { type AdapterMethod, PeftError, type WeightFormat } from "@peftjs/core"
import { type LoraOptions, lora } from "@peftjs/lora"
import { type FourBitOptions, fp4, nf4 } from "./four-bit.ts"
import { int8 } from "./int8.ts"

export interface QloraOptions extends LoraOptions, FourBitOptions {
  /** How the base is stored; nf4 by default. */
  readonly type?: "nf4" | "fp4" | "int8"
}

/** What a base is loaded with and what is put over it. */
export interface Qlora {
  /** For `loadCausalLM`. */
  readonly weights: WeightFormat
  /** For `adapt`. */
  readonly method: AdapterMethod
}

/**
 * NF4 with double quantisation under LoRA of rank 64 and alpha 16, as in the paper, unless told otherwise; all other options are LoRA's.
 * Throws E_OPTION, E_RANK.
 */
export function qlora(options: QloraOptions = {}): Qlora {
  const { type = "nf4", blockSize, doubleQuant = true, ...rest } = options
  const packing: FourBitOptions = { doubleQuant, ...(blockSize === undefined ? {} : { blockSize }) }
  return { weights: formatOf(type, packing), method: lora({ r: 64, alpha: 16, ...rest }) }
}

function formatOf(type: string, options: FourBitOptions): WeightFormat {
  if (type === "nf4") return nf4(options)
  if (type === "fp4") return fp4(options)
  if (type === "int8") return int8()
  throw new PeftError("E_OPTION", `[qlora] type must be nf4, fp4 or int8, not ${JSON.stringify(type)}`)
}
