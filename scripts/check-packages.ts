/** publint and are-the-types-wrong on the packed tarballs, which is what users will get, not on the folders. */
import { spawnSync } from "node:child_process"
import { basename } from "node:path"
import { pack } from "./pack.ts"

function check(command: string, ...args: readonly string[]): boolean {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" })
  if (status !== 0) console.log(`${command} ${args.map((arg) => basename(arg)).join(" ")}\n${stdout}${stderr}`)
  return status === 0
}

let failed = 0
for (const tarball of pack()) {
  if (!check("publint", "run", tarball, "--strict")) failed++
  // The command has no types to be wrong: it is run, not imported.
  if (/peftjs-cli-/.test(tarball)) continue
  if (!check("attw", tarball, "--profile", "esm-only", "--exclude-entrypoints", "./package.json")) failed++
}
process.exitCode = failed === 0 ? 0 : 1
