/** Bases in 4 or 8 bits, and QLoRA: LoRA over them. */
export { type FourBitOptions, fp4, nf4 } from "./four-bit.ts"
export { int8 } from "./int8.ts"
export { type Qlora, type QloraOptions, qlora } from "./qlora.ts"
