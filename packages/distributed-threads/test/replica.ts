/** What a worker of the tests does: trains as rank 0 does, or ends as it is told to. */

import { replica } from "../src/node.ts"
import { trainToy } from "./toy.ts"

const given = replica()
if (!given) throw new Error("not a replica")
if (process.argv.includes("--throw")) throw new Error("broken on purpose")
if (process.argv.includes("--exit")) process.exit(3)
await trainToy(given.communicator)
