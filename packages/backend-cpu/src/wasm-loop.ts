/** Pieces that most kernels in WebAssembly are made of. Knows code, not what is computed. */
import { type Code, i32, op } from "./wasm-op.ts"

/** Adds to an i32 local. */
export function advance(local: number, by: number | Code): Code {
  return op.set(local, i32.add(op.get(local), typeof by === "number" ? i32.const(by) : by))
}

/** `body` as often as the i32 local `count` says, which is 0 afterwards. */
export function times(count: number, body: Code): Code {
  const turn = [...body, ...op.tee(count, i32.sub(op.get(count), i32.const(1)))]
  return [...op.get(count), ...op.when(op.loop(turn))]
}
