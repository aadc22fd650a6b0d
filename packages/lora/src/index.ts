/** LoRA: the method, its options, and its file format. */
export { type LoraOptions, lora } from "./lora.ts"
