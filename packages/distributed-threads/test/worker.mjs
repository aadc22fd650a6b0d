// A replica: runs the TypeScript beside it as the command does in a clone.
import { register } from "tsx/esm/api"

register()
await import("./replica.ts")
