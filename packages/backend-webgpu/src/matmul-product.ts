/**
 * What every matmul variant is given: a stack of products over matrices that lie anywhere in their buffers, so that attention reads heads
 * in place. Knows addresses, not how a product is computed.
 */
import type { DeviceBuffer, MatmulDims } from "@peftjs/core"
import type { Binding, GpuBuffer, ProgramParam } from "./gpu.ts"

/** A stack of matrices; all numbers count elements. Matrix (o, i) begins at `at + o·outer + ⌊i / group⌋·inner`. */
export interface Operand {
  readonly buffer: DeviceBuffer
  readonly at: number
  /** Stored turned round: op(X) is Xᵀ. */
  readonly transposed: boolean
  /** Between stored rows. */
  readonly stride: number
  readonly outer: number
  readonly inner: number
  readonly group: number
  /** Between the matrices whose products are added up. */
  readonly again: number
  /** How its elements are read, where they are not numbers in `buffer`. */
  readonly elements?: Elements
}

/** Elements that a shader has to make: functions NAME_1(i), element i, and NAME_4(i), elements i…i+3 with i a multiple of 4 where `stride` is. */
export interface Elements {
  /** For a program's key. */
  readonly key: string
  readonly helpers: string
  readonly bindings: readonly Binding[]
  readonly buffers: readonly DeviceBuffer[]
  readonly params: readonly ProgramParam[]
  readonly values: readonly number[]
}

/** C(o, i) = Σ_r op(A(o, i, r)) · op(B(o, i, r)) for o < outer, i < inner, r < repeat. */
export interface Product {
  readonly outer: number
  readonly inner: number
  readonly m: number
  readonly n: number
  readonly k: number
  readonly repeat: number
  readonly a: Operand
  readonly b: Operand
  readonly c: {
    readonly buffer: GpuBuffer
    readonly at: number
    readonly stride: number
    readonly outer: number
    readonly inner: number
  }
  /** Added to what C holds. */
  readonly accumulate: boolean
}

/** Matrices one after another, as core stores them. */
export function denseProduct(a: DeviceBuffer, b: DeviceBuffer, buffer: GpuBuffer, dims: MatmulDims): Product {
  const { batch, m, n, k, transA, transB } = dims
  const plain = { at: 0, inner: 0, group: 1, again: 0 }
  return {
    outer: batch,
    inner: 1,
    m,
    n,
    k,
    repeat: 1,
    a: { ...plain, buffer: a, transposed: transA, stride: transA ? m : k, outer: m * k },
    b: { ...plain, buffer: b, transposed: transB, stride: transB ? k : n, outer: n * k },
    c: { buffer, at: 0, stride: n, outer: m * n, inner: 0 },
    accumulate: false,
  }
}

/** Whether four neighbours always lie in one aligned block of four. */
export function aligned({ at, stride, outer, inner, again }: Operand): boolean {
  return [at, stride, outer, inner, again].every((x) => x % 4 === 0)
}

const names = [
  ...["m", "n", "k", "repeat", "inner", "matrices"],
  ...["a_at", "a_stride", "a_outer", "a_inner", "a_group", "a_again"],
  ...["b_at", "b_stride", "b_outer", "b_inner", "b_group", "b_again"],
  ...["c_at", "c_stride", "c_outer", "c_inner"],
]

/** The uniform block that every variant begins with. */
export const productParams: readonly ProgramParam[] = names.map((name) => ({ name, type: "u32" }))

export function productValues({ outer, inner, m, n, k, repeat, a, b, c }: Product): number[] {
  const operand = (x: Operand): number[] => [x.at, x.stride, x.outer, x.inner, x.group, x.again]
  return [m, n, k, repeat, inner, outer * inner, ...operand(a), ...operand(b), c.at, c.stride, c.outer, c.inner]
}

/** Statements that find where the matrices of product number `z` begin: a_base, b_base, c_base. */
export const findMatrices = `
let z_outer = z / p.inner;
let z_inner = z % p.inner;
let a_base = p.a_at + z_outer * p.a_outer + z_inner / p.a_group * p.a_inner;
let b_base = p.b_at + z_outer * p.b_outer + z_inner / p.b_group * p.b_inner;
let c_base = p.c_at + z_outer * p.c_outer + z_inner * p.c_inner;`
