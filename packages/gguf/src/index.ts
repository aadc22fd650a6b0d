/** GGUF files as model folders, and their kinds of blocks as weight formats. No file access: that is gguf/node. */
export { checkScales } from "./check.ts"
export { type GgufFilesOptions, ggufFiles } from "./files.ts"
export { ggufFormats, q4_0, q4_1, q8_0 } from "./formats.ts"
export { type GgufFile, type GgufTensor, openGguf } from "./open.ts"
