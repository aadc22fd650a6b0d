/** The safetensors file format: strict reading, lazy ranges, shards, streaming writes. Runs anywhere; Node's files are in /node. */
export {
  type ByteSource,
  bytes,
  checkPath,
  type FileSink,
  type FileSource,
  readRange,
  readText,
  writeText,
} from "./byte-source.ts"
export {
  type Dtype,
  dtypeBits,
  dtypes,
  elementCount,
  isDtype,
  type TensorArray,
  tensorBytes,
  typedView,
} from "./dtype.ts"
export { SafetensorsError, type SafetensorsErrorCode } from "./error.ts"
export { fromFloat32, toBfloat16, toFloat16, toFloat32 } from "./float.ts"
export type { TensorInfo } from "./header.ts"
export { type MemoryFiles, memoryFiles } from "./memory-files.ts"
export { type ModelNames, openModel } from "./model.ts"
export {
  openSafetensors,
  type ParsedSafetensors,
  parseSafetensors,
  type TensorData,
  type TensorSource,
} from "./reader.ts"
export {
  type LazyTensorInput,
  serializeSafetensors,
  type TensorInput,
  type TensorInputs,
  writeSafetensors,
} from "./writer.ts"
