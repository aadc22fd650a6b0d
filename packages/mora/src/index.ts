/** MoRA: the method, its options, its file formats, and what an adapter is as a LoRA. */
export { deltaOf, deltaSpectrum, type LoraFactors, loraFactors } from "./as-lora.ts"
export { moraDelta, moraFactors } from "./delta.ts"
export { type MoraOptions, mora, upstreamLayout } from "./mora.ts"
export { defaultLearningRate, matrixSize } from "./size.ts"
export { singularValues, singularValuesOfProduct, type TruncatedSvd, truncatedSvd } from "./svd.ts"
export type { MoraNumber, MoraType } from "./types.ts"
