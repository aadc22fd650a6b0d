/** Runs kernels on given operands and holds them to the contract: right numbers, untouched and unshared arguments, the same bits again. */
import type { Backend, DeviceBuffer, DType, TypedArray } from "@peftjs/core"
import { bytesPerElement, hostArray } from "@peftjs/core"
import { check, close, same, throwsCode } from "../assert.ts"
import { type ToleranceOp, toleranceOf } from "./tolerances.ts"

export interface KernelCase {
  readonly label: string
  readonly inputs: readonly { readonly data: TypedArray; readonly dtype?: DType }[]
  run(backend: Backend, buffers: readonly DeviceBuffer[]): DeviceBuffer
  readonly expected: ArrayLike<number>
  /** f32 unless told otherwise. */
  readonly dtype?: DType
  /** "exact" unless told otherwise. */
  readonly tolerance?: ToleranceOp
}

/** All cases at once, so that a device gets them in one go; fails as the first of them that does. */
export async function checkKernels(backend: Backend, cases: readonly KernelCase[]): Promise<void> {
  await allOf(cases.map((test) => checkKernel(backend, test)))
}

/** Waits for all of them; fails as the first in order. */
async function allOf(checks: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(checks)) if (result.status === "rejected") throw result.reason
}

export async function checkKernel(backend: Backend, test: KernelCase): Promise<void> {
  const { label, inputs, expected, dtype = "f32", tolerance = "exact" } = test
  const buffers = upload(backend, inputs)
  const out = test.run(backend, buffers)
  const again = test.run(backend, buffers)
  check(out.dtype === dtype, `${label}: the result is ${out.dtype}, not ${dtype}`)
  check(out.length === expected.length, `${label}: the result has ${out.length} elements, not ${expected.length}`)
  check(![...buffers, again].includes(out), `${label}: the result is not a new buffer`)
  const operands = await Promise.all(buffers.map((buffer) => backend.read(buffer)))
  for (const [i, x] of inputs.entries()) same(operands[i] as TypedArray, x.data, `${label}: operand ${i} afterwards`)
  for (const buffer of buffers) backend.free(buffer)
  // Whatever the arguments' memory is used for next must not show in the result.
  const noise = inputs.map((x) => backend.upload(hostArray(x.dtype ?? "f32", x.data.length).fill(77), x.dtype ?? "f32"))
  const [first, second] = await Promise.all([backend.read(out), backend.read(again)])
  close(first, expected, toleranceOf(tolerance, dtype), label)
  same(second, first, `${label}: the same call again`)
  for (const buffer of [...noise, out, again]) backend.free(buffer)
}

/**
 * Under a limit of bytes per buffer: a case whose operands and result fit is as ever, any other is refused. Of those that fit every third
 * is run, since a device of its own compiles every kernel again.
 */
export async function checkKernelsWithin(backend: Backend, cases: readonly KernelCase[]): Promise<void> {
  const { maxBufferBytes } = backend.supports
  const fits = ({ inputs, expected, dtype = "f32" }: KernelCase): boolean =>
    inputs.every((x) => x.data.byteLength <= maxBufferBytes) &&
    expected.length * bytesPerElement[dtype] <= maxBufferBytes
  const fitting = cases.filter(fits)
  await checkKernels(
    backend,
    fitting.filter((_, i) => i % 3 === 0),
  )
  for (const test of cases.filter((c) => !fits(c))) {
    const uploaded: DeviceBuffer[] = []
    const attempt = (): unknown => {
      for (const input of test.inputs) uploaded.push(...upload(backend, [input]))
      return test.run(backend, uploaded)
    }
    await throwsCode("E_BUFFER_SIZE", attempt, `${test.label}, larger than ${maxBufferBytes} bytes`)
    for (const buffer of uploaded) backend.free(buffer)
  }
}

function upload(backend: Backend, inputs: KernelCase["inputs"]): DeviceBuffer[] {
  return inputs.map((x) => backend.upload(x.data, x.dtype ?? "f32"))
}
