/** What TensorFlow's status says, as an error of this project. Knows status numbers and no runtime. */
import { PeftError } from "@peftjs/core"

/** TF_Code of tensorflow/c/tf_status.h. */
const resourceExhausted = 8

/** The error for a status that is not OK. `what` says what was tried: "the op MatMul". */
export function statusError(what: string, code: number, message: string, cause?: unknown): PeftError {
  const options = cause === undefined ? {} : { cause }
  const text = message.trim() || `status ${code}`
  if (code === resourceExhausted || /\bout of memory\b|OOM when allocating/i.test(text))
    return new PeftError(
      "E_OUT_OF_MEMORY",
      `[backend-cuda] ${what}: ${text}; take smaller batches or shorter rows, or end other programs on the GPU`,
      options,
    )
  return new PeftError("E_KERNEL", `[backend-cuda] ${what} failed: ${text} (TensorFlow's status ${code})`, options)
}
