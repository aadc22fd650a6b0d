#!/usr/bin/env node
// The `peft` command. Published, it runs dist/main.js; in a clone, where nothing is built, it runs the TypeScript source through tsx.
// It writes nothing to stdout: that belongs to the command.
import { existsSync } from "node:fs"
import * as nodeModule from "node:module"

// Node 22 and later keep compiled code from one run to the next.
nodeModule.enableCompileCache?.()
const source = new URL("../src/main.ts", import.meta.url)
if (existsSync(source)) {
  const { register } = await import("tsx/esm/api")
  register()
  await import(source.href)
} else {
  await import("../dist/main.js")
}
