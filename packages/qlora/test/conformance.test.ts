/** The adapter kit's checks of weight formats, with LoRA and MoRA over quantised weights; the others run in the methods' own packages. */
import { testAdapter } from "@peftjs/conformance"
import { lora } from "@peftjs/lora"
import { mora } from "@peftjs/mora"
import { backends, required } from "@peftjs/tests/backends"
import { describe, it } from "vitest"
import { fp4, int8, nf4 } from "../src/index.ts"

const weights = {
  nf4: nf4(),
  "nf4, doubly quantised": nf4({ blockSize: 32, doubleQuant: true }),
  fp4: fp4(),
  int8: int8(),
}
const names = Object.keys(weights).map((name) => `on weights in ${name} `)
const some = (name: string, body: () => void | Promise<void>): void => {
  if (names.some((start) => name.startsWith(start))) it(name, body)
}
const runner = { describe, it: Object.assign(some, { skip: it.skip }), backends, required, weights }
testAdapter(lora({ r: 4 }), { ...runner, name: "lora over quantised weights" })
testAdapter(lora({ r: 3, alpha: 6, dora: true }), {
  ...runner,
  name: "DoRA over quantised weights",
  detaches: ["A", "B"],
})
testAdapter(mora({ r: 1, type: "rotation" }), { ...runner, name: "mora over quantised weights" })
