/**
 * `npm run broken`: runs the whole conformance kit on every backend, method and weight format that is broken on purpose, and prints which
 * check was meant for it, whether that check caught it, and how many others failed as well. Fails where one is not caught.
 */
import { brokenBackends } from "../packages/conformance/test/broken-backends.ts"
import { brokenFormats } from "../packages/conformance/test/broken-formats.ts"
import { brokenMethods } from "../packages/conformance/test/broken-methods.ts"
import { tableHead, tableRow, verdictOf } from "../packages/conformance/test/broken-thing.ts"

for (const [kind, things] of Object.entries({
  backend: brokenBackends,
  method: brokenMethods,
  format: brokenFormats,
})) {
  console.log(tableHead(kind))
  let caught = 0
  for (const [what, thing] of Object.entries(things)) {
    const verdict = await verdictOf(what, thing)
    console.log(tableRow(verdict))
    if (verdict.caught) caught++
    else process.exitCode = 1
  }
  console.log(`\n${caught} of ${Object.keys(things).length} caught\n`)
}
