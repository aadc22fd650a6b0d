/** One AdamW step in place (Loshchilov & Hutter 2019), in the order of operations of PyTorch's AdamW and in f32 like it. */
import { type InPlaceKernels, invariant } from "@peftjs/core"
import { requireOwn } from "./buffers.ts"
import { type Heap, perHeap } from "./heap.ts"
import { overRows, type Part } from "./staging.ts"
import { advance } from "./wasm-loop.ts"
import { type ValueType, wasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, i32, op, v128 } from "./wasm-op.ts"

export function createAdamW(heap: Heap): InPlaceKernels["adamw"] {
  return (p, g, m, v, scalars) => {
    const n = p.length
    for (const changed of [p, m, v]) requireOwn(changed)
    invariant(g.length === n && m.length === n && v.length === n, "backend-cpu: adamw's operands differ in length")
    const { learningRate, beta1, beta2, epsilon, weightDecay, correction1, correction2, gradScale } = scalars
    const numbers = [
      ...[gradScale, beta1, 1 - beta1, beta2, 1 - beta2],
      ...[1 - learningRate * weightDecay, learningRate / correction1, Math.sqrt(correction2), epsilon],
    ]
    const update = { width: 1, access: "update" } as const
    const parts: Part[] = [
      { buffer: p, ...update },
      { buffer: g, width: 1, access: "read" },
      { buffer: m, ...update },
      { buffer: v, ...update },
    ]
    overRows(heap, n, parts, (count, addresses) => {
      kernels(heap).step?.(...addresses, count, ...numbers)
    })
  }
}

const pointers = { p: "i32", g: "i32", m: "i32", v: "i32" } as const
const numbers = {
  gradScale: "f32",
  beta1: "f32",
  rest1: "f32",
  beta2: "f32",
  rest2: "f32",
  keep: "f32",
  rate: "f32",
  root: "f32",
  epsilon: "f32",
} as const

const kernels = perHeap((heap) =>
  heap.load([
    wasmFunction("step", { ...pointers, n: "i32", ...numbers }, (scope) => {
      const { param } = scope
      const names = Object.keys(numbers) as (keyof typeof numbers)[]
      const splats = Object.fromEntries(names.map((name) => [name, scope.local("v128")])) as Record<string, number>
      const number = (name: keyof typeof numbers): Code => op.get(splats[name] as number)
      const [end, gradient, mean, square] = (["i32", "v128", "v128", "v128"] satisfies ValueType[]).map((type) =>
        scope.local(type),
      ) as [number, number, number, number]
      const load = (name: keyof typeof pointers): Code => v128.load(op.get(param[name]))
      const { add, sub, mul, div, sqrt } = f32x4
      const step = div(
        mul(number("rate"), op.get(mean)),
        add(div(sqrt(op.get(square)), number("root")), number("epsilon")),
      )
      return [
        ...names.flatMap((name) => op.set(splats[name] as number, f32x4.splat(op.get(param[name])))),
        ...op.set(end, i32.add(op.get(param.p), i32.shl(op.get(param.n), i32.const(2)))),
        ...op.loop([
          ...op.set(gradient, mul(load("g"), number("gradScale"))),
          ...op.set(mean, add(mul(number("beta1"), load("m")), mul(number("rest1"), op.get(gradient)))),
          ...op.set(
            square,
            add(mul(number("beta2"), load("v")), mul(mul(number("rest2"), op.get(gradient)), op.get(gradient))),
          ),
          ...v128.store(op.get(param.m), op.get(mean)),
          ...v128.store(op.get(param.v), op.get(square)),
          ...v128.store(op.get(param.p), sub(mul(load("p"), number("keep")), step)),
          ...[param.p, param.g, param.m, param.v].flatMap((at) => advance(at, 16)),
          ...i32.ltU(op.get(param.p), op.get(end)),
        ]),
      ]
    }),
  ]),
)
