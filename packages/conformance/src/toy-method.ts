/** The smallest method there is, for stacking others on it and under it: y = s ∘ (W x + b), a factor per output. Has no file format. */
import type { AdapterMethod, Tensor } from "@peftjs/core"
import { param } from "@peftjs/core"

export const toyScale: AdapterMethod = {
  kind: "site",
  specVersion: 1,
  name: "scale",
  config: {},
  sites: ["linear", "embedding"],
  mergeable: true,
  init: ({ site, init }) => ({ params: { s: param(init.ones([site.out])) } }),
  forward: (x, next, { s }) => next(x).mul(s as Tensor),
}
