/**
 * A minimal encoder of WebAssembly modules: one imported memory, imported functions of a number, exported functions.
 * Knows the binary format (core specification 2.0, chapter 5.5), not what is computed.
 */
import { type Code, f32x4, op, u32 } from "./wasm-op.ts"

export type ValueType = "i32" | "f32" | "f64" | "v128"

export interface WasmFunction {
  readonly name: string
  /** Locals 0, 1, … */
  readonly params: readonly ValueType[]
  /** Numbered after the parameters. */
  readonly locals: readonly ValueType[]
  readonly result?: ValueType
  readonly body: Code
}

/** What a function under construction offers: its parameters by name, and locals for whatever code needs them. */
export interface Scope<Name extends string = string> {
  readonly param: Readonly<Record<Name, number>>
  local(type: ValueType): number
  /** a · b + c of vectors of f32, rounded once where the engine can. */
  multiplyAdd(a: Code, b: Code, c: Code): Code
}

/** Builds a function whose parameters have names and whose locals are made as its code is written. */
export function wasmFunction<Name extends string>(
  name: string,
  params: Readonly<Record<Name, ValueType>>,
  build: (scope: Scope<Name>) => Code,
): WasmFunction {
  const names = Object.keys(params) as Name[]
  const locals: ValueType[] = []
  const param = Object.fromEntries(names.map((n, i) => [n, i])) as Record<Name, number>
  const local = (type: ValueType): number => names.length + locals.push(type) - 1
  const multiplyAdd = relaxedSimd() ? f32x4.relaxedMadd : separately
  const body = build({ param, local, multiplyAdd })
  return { name, params: names.map((n) => params[n]), locals, body }
}

const separately: Scope["multiplyAdd"] = (a, b, c) => f32x4.add(f32x4.mul(a, b), c)

/** Whether the engine has relaxed SIMD, now: a flag of V8 may change that while a program runs. */
export function relaxedSimd(): boolean {
  const zero = f32x4.splatOf(0)
  const body = op.drop(f32x4.relaxedMadd(zero, zero, zero))
  return WebAssembly.validate(wasmModule([{ name: "probe", params: [], locals: [], body }]))
}

/** Evaluates `value` once: `use` gets the code that reads it. */
export function once(scope: Pick<Scope, "local">, type: ValueType, value: Code, use: (read: Code) => Code): Code {
  const local = scope.local(type)
  return [...op.set(local, value), ...use(op.get(local))]
}

const codes: Readonly<Record<ValueType, number>> = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b }

interface ModuleOptions {
  /** Whether the imported memory is shared. */
  readonly shared?: boolean
  /** Imported functions f64 → f64: they have the numbers 0, 1, …, the module's own follow. */
  readonly imports?: readonly string[]
}

/** The bytes of a module that imports memory "m" of "e" and functions of "e", and exports `functions`. */
export function wasmModule(functions: readonly WasmFunction[], options: ModuleOptions = {}): Uint8Array<ArrayBuffer> {
  const { shared = false, imports = [] } = options
  const text = (s: string): number[] => list([...new TextEncoder().encode(s)])
  const list = (items: readonly number[]): number[] => [...u32(items.length), ...items]
  const vector = (items: readonly (readonly number[])[]): number[] => [...u32(items.length), ...items.flat()]
  const section = (id: number, body: readonly number[]): number[] => [id, ...list(body)]
  const types = (names: readonly ValueType[]): number[] => list(names.map((n) => codes[n]))
  const signature = ({ params, result }: Pick<WasmFunction, "params" | "result">): number[] => [
    0x60,
    ...types(params),
    ...types(result === undefined ? [] : [result]),
  ]
  // Of the largest size a memory can have, so that any shared memory will do.
  const limits = shared ? [3, 1, ...u32(65536)] : [0, 1]
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector([signature({ params: ["f64"], result: "f64" }), ...functions.map(signature)])),
    ...section(
      2,
      vector([
        [...text("e"), ...text("m"), 2, ...limits],
        ...imports.map((name) => [...text("e"), ...text(name), 0, 0]),
      ]),
    ),
    ...section(3, vector(functions.map((_, i) => u32(i + 1)))),
    ...section(7, vector(functions.map((f, i) => [...text(f.name), 0, ...u32(imports.length + i)]))),
    ...section(
      10,
      vector(functions.map((f) => list([...vector(f.locals.map((type) => [1, codes[type]])), ...f.body, 0x0b]))),
    ),
    // Names for profiles and stack traces.
    ...section(0, [
      ...text("name"),
      ...section(1, vector(functions.map((f, i) => [...u32(imports.length + i), ...text(f.name)]))),
    ]),
  ])
}
