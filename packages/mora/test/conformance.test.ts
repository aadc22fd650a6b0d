/** The adapter kit on every type of MoRA. */
import { testAdapter } from "@peftjs/conformance"
import { backends, required } from "@peftjs/tests/backends"
import { describe, it } from "vitest"
import { mora } from "../src/index.ts"

const runner = { describe, it, backends, required }
for (const type of [1, 2, 3, 4, 6] as const)
  testAdapter(mora({ r: 1, type }), { ...runner, name: `mora, ${mora({ type }).config.type}` })
testAdapter(mora({ r: 1, type: "sharing", dropout: 0.2, rankPattern: { up_proj: 3 }, remoraTypes: 2 }), {
  ...runner,
  name: "mora, all options",
})
