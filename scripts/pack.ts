/** Packs every package as it would be published (publishConfig applied, workspace: ranges replaced) and names the tarballs. */
import { execFileSync } from "node:child_process"
import { readdirSync, rmSync } from "node:fs"
import { join } from "node:path"

const root = join(import.meta.dirname, "..")
const folder = join(root, ".cache", "packed")

/** Full paths of fresh tarballs, one per package. The packages must be built. */
export function pack(): string[] {
  rmSync(folder, { recursive: true, force: true })
  const pnpm = ["--yes", "pnpm@10.34.9"]
  const args = [...pnpm, "--recursive", "--filter", "./packages/*", "pack", "--pack-destination", folder]
  execFileSync("npx", args, { cwd: root, stdio: ["ignore", "ignore", "inherit"] })
  return readdirSync(folder).map((name) => join(folder, name))
}
