/** What a failure means for the person in front of the page, before what the program says about it. */

const meanings: Readonly<Record<string, string>> = {
  E_NO_DEVICE: "This browser offers no WebGPU here. Choose the CPU, or another browser.",
  E_SELF_TEST: "This GPU computes wrongly. Choose the CPU; a newer driver or browser may help.",
  E_DEVICE_LOST: "The GPU was lost: its driver was reset, or the device slept. Continue opens it again.",
  E_OUT_OF_MEMORY: "Memory ran out. Take fewer rows per step, or a smaller model.",
  E_LOSS_NOT_FINITE: "The numbers ran away. Take a lower learning rate and start again.",
  E_FILE_NOT_FOUND: "A file is missing from what you chose.",
  E_INTERNAL: "Something went wrong.",
}

export function explain({ code, message }: { readonly code: string; readonly message: string }): string {
  const meaning = meanings[code] ?? (/^E_SAFETENSORS|^E_JSON|^E_SHARD/.test(code) ? "A file is damaged." : undefined)
  return meaning === undefined ? message : `${meaning} (${message})`
}
