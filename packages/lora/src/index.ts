/** LoRA: the method, its options, and its file format. */
export { type LoraOptions, lora, loraScale } from "./lora.ts"
