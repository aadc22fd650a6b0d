/** The adapter kit on NewName. */
import { testAdapter } from "@peftjs/conformance"
import { backends, required } from "@peftjs/tests/backends"
import { weights } from "@peftjs/tests/formats"
import { describe, it } from "vitest"
import { newName } from "../src/index.ts"

const runner = { describe, it, backends, required, savedAs: ["new_name_A.weight", "new_name_B.weight"] }
testAdapter(newName({ r: 3 }), { ...runner, weights })
testAdapter(newName({ r: 2, dropout: 0.2 }), { ...runner, name: "new-name with dropout" })
