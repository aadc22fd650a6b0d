/** Runs one kernel on given operands and holds it to the contract: right numbers, untouched and unshared arguments, the same bits again. */
import type { Backend, DeviceBuffer, DType, TypedArray } from "@peftjs/core"
import { hostArray } from "@peftjs/core"
import { check, close, same } from "../assert.ts"

export interface KernelCase {
  readonly label: string
  readonly inputs: readonly { readonly data: TypedArray; readonly dtype?: DType }[]
  run(backend: Backend, buffers: readonly DeviceBuffer[]): DeviceBuffer
  readonly expected: ArrayLike<number>
  /** f32 unless told otherwise. */
  readonly dtype?: DType
  /** Equal numbers unless told otherwise. */
  readonly tolerance?: number
}

export async function checkKernel(backend: Backend, test: KernelCase): Promise<void> {
  const { label, inputs, expected, dtype = "f32", tolerance = 0 } = test
  const buffers = inputs.map((x) => backend.upload(x.data, x.dtype ?? "f32"))
  const out = test.run(backend, buffers)
  const again = test.run(backend, buffers)
  check(out.dtype === dtype, `${label}: the result is ${out.dtype}, not ${dtype}`)
  check(out.length === expected.length, `${label}: the result has ${out.length} elements, not ${expected.length}`)
  check(![...buffers, again].includes(out), `${label}: the result is not a new buffer`)
  for (const [i, x] of inputs.entries()) {
    same(await backend.read(buffers[i] as DeviceBuffer), x.data, `${label}: operand ${i} afterwards`)
  }
  for (const buffer of buffers) backend.free(buffer)
  // Whatever the arguments' memory is used for next must not show in the result.
  const noise = inputs.map((x) => backend.upload(hostArray(x.dtype ?? "f32", x.data.length).fill(77), x.dtype ?? "f32"))
  const [first, second] = [await backend.read(out), await backend.read(again)]
  close(first, expected, tolerance, label)
  same(second, first, `${label}: the same call again`)
  for (const buffer of [...noise, out, again]) backend.free(buffer)
}
