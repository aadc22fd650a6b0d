/** Language models as plain layers, read from Hugging Face folders; knows no adapter. */
export type { Architecture, Blueprint, ModelParts, ParamSpec, SiteSpec } from "./architecture.ts"
export { architectureOf, defineModel } from "./architecture.ts"
export { makeCache } from "./cache.ts"
export type { RenderedChat } from "./chat-template.ts"
export type { Config } from "./config.ts"
export { configOf, readConfig } from "./config.ts"
export { turned } from "./conv1d.ts"
export { type GenerateOptions, generate, greedy, type Pick } from "./generate.ts"
export {
  type GeneratedText,
  type GenerateTextOptions,
  generateText,
} from "./generate-text.ts"
export { gpt2 } from "./gpt2.ts"
export { type InitOptions, initCausalLM } from "./init.ts"
export { llama } from "./llama.ts"
export { defaultArchitectures, type LoadOptions, loadCausalLM } from "./load.ts"
export { type SavedMerge, type SaveMergedOptions, saveMerged } from "./merge.ts"
export { mistral } from "./mistral.ts"
export { qwen2 } from "./qwen2.ts"
export { qwen3 } from "./qwen3.ts"
export { processLogits, type SampleOptions, sample } from "./sampling.ts"
export { type SaveOptions, saveModel } from "./save.ts"
export { type FolderTokenizer, loadTokenizer } from "./tokenizer.ts"
