/** The adapter kit on every type of MoRA, and on one of them over every weight format. */
import { testAdapter } from "@peftjs/conformance"
import { backends, required } from "@peftjs/tests/backends"
import { weights } from "@peftjs/tests/formats"
import { describe, it } from "vitest"
import { mora } from "../src/index.ts"

const runner = { describe, it, backends, required }
for (const type of [1, 2, 3, 4, 6] as const)
  testAdapter(mora({ r: 1, type }), {
    ...runner,
    name: `mora, ${mora({ type }).config.type}`,
    ...(type === 6 ? { weights } : {}),
  })
testAdapter(mora({ r: 1, type: "sharing", dropout: 0.2, rankPattern: { up_proj: 3 }, remoraTypes: 2 }), {
  ...runner,
  name: "mora, all options",
})
