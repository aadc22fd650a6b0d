/** Runs one tensor operation on a backend and holds its value and its gradients to an oracle in f64. */
import type { Backend, Shape, Tensor, TypedArray } from "@peftjs/core"
import { engineOf, free, hold, scope, sizeOf, tensor, valueAndGradients } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { gradientOf, type Host, host, numbers } from "./host.ts"
import { type ToleranceOp, toleranceOf } from "./tolerances.ts"

export interface OpInput {
  readonly shape: Shape
  readonly data: Float32Array | Int32Array
  /** Whether its gradient is checked too. */
  readonly trainable: boolean
}

export interface OpCase {
  readonly name: string
  readonly inputs: readonly OpInput[]
  /** The operation, on tensors of the inputs. */
  run(tensors: readonly Tensor[]): Tensor
  /** What it means, in f64. */
  reference(inputs: readonly Host[]): Host
  /** "composed" unless told otherwise. */
  readonly tolerance?: ToleranceOp
  /** Fused kernels it runs on where a backend has them. */
  readonly fused?: readonly string[]
}

/** A trainable f32 input of numbers between low and high. */
export function real(name: string, shape: Shape, low = -1, high = 1): OpInput {
  return { shape, data: numbers(name, sizeOf(shape), low, high), trainable: true }
}

/** An f32 input that is held fixed. */
export function fixed(name: string, shape: Shape, low = -1, high = 1): OpInput {
  return { ...real(name, shape, low, high), trainable: false }
}

/** An i32 input. */
export function ints(shape: Shape, values: readonly number[]): OpInput {
  return { shape, data: Int32Array.from(values), trainable: false }
}

export interface OpResult {
  readonly value: TypedArray
  /** One per input; undefined where none is wanted. */
  readonly gradients: readonly (TypedArray | undefined)[]
}

/** Value of the operation, and gradients of the sum of its elements times fixed weights. Leaves no buffer behind. */
export async function runOp(backend: Backend, test: OpCase): Promise<OpResult> {
  const engine = engineOf(backend)
  const before = engine.liveBuffers
  const tensors = scope(engine, () =>
    test.inputs.map(({ data, shape, trainable }) => {
      const held = hold(tensor(backend, data, shape, data instanceof Int32Array ? "i32" : "f32"))
      held.requiresGrad = trainable
      return held
    }),
  )
  const output = scope(engine, () => hold(test.run(tensors)))
  const value = await output.data()
  const gradients: (TypedArray | undefined)[] = []
  if (tensors.some((t) => t.requiresGrad)) {
    const weights = weightsFor(output.size)
    const result = valueAndGradients(engine, () =>
      test
        .run(tensors)
        .mul(tensor(backend, weights, output.shape))
        .sum(),
    )
    free(result.value)
    const reads = tensors.map(async (t) => result.gradients.get(t)?.data())
    gradients.push(...(await Promise.all(reads)))
    for (const g of result.gradients.values()) free(g)
  }
  free(output)
  for (const t of tensors) free(t)
  check(engine.liveBuffers === before, `${test.name}: ${engine.liveBuffers - before} buffers were left behind`)
  return { value, gradients }
}

const weightsFor = (n: number): Float32Array => numbers("weights", n, 0.5, 1.5)

interface Oracle {
  readonly value: Float64Array
  /** One per input; undefined where none is wanted. */
  readonly gradients: readonly (Float64Array | undefined)[]
}

/** What each case should give: found once for all backends. */
const oracles = new WeakMap<OpCase, Oracle>()

function oracleOf(test: OpCase): Oracle {
  const known = oracles.get(test)
  if (known) return known
  const hosts = test.inputs.map((x) => host(x.shape, x.data))
  const value = test.reference(hosts).data
  const weights = weightsFor(value.length)
  const gradients = test.inputs.map(({ trainable }, i) =>
    trainable ? gradientOf((x) => test.reference(x), hosts, i, weights) : undefined,
  )
  const oracle = { value, gradients }
  oracles.set(test, oracle)
  return oracle
}

/** Value and gradients against the oracle, and the same bits from a second run. */
export async function checkOp(backend: Backend, test: OpCase): Promise<void> {
  const { name, inputs, tolerance = "composed" } = test
  const expected = oracleOf(test)
  const [result, again] = [await runOp(backend, test), await runOp(backend, test)]
  close(result.value, expected.value, toleranceOf(tolerance), name)
  for (const [i, gradient] of expected.gradients.entries()) {
    if (!gradient) continue
    const found = result.gradients[i] ?? new Float32Array((inputs[i] as OpInput).data.length)
    close(found, gradient, toleranceOf(tolerance), `${name}: gradient of input ${i}`)
  }
  same(again.value, result.value, `${name}: a second run`)
  for (const [i, g] of result.gradients.entries())
    if (g) same(again.gradients[i] as TypedArray, g, `${name}: gradient of input ${i} in a second run`)
}
