// @ts-check
/**
 * IA³ (Liu et al. 2022, arXiv 2205.05638) in Hugging Face PEFT's spelling: a learned vector scales a layer's outputs, in feed-forward
 * layers its inputs. Usual targets: k_proj, v_proj and down_proj, of which down_proj is the feed-forward one.
 */
import { completeOptions, PeftError, param, pattern } from "@peftjs/core"

const feedforward = "feedforwardModules (feedforward_modules)"

/** @typedef {{ feedforwardModules?: readonly string[] | string, init?: boolean }} Ia3Options */

/** @type {Required<Ia3Options>} */
const defaults = { feedforwardModules: [], init: true }

// #region method
/**
 * @param {Ia3Options} [options] feedforwardModules: ends of the paths of layers whose inputs are scaled, or a regular expression;
 *   init: start from ones, which changes nothing (true, the default), or from N(0, 1)
 * @returns {import("@peftjs/core").AdapterMethod}
 * @throws E_OPTION
 */
function makeIa3(options = {}) {
  const config = completeOptions("ia3", defaults, options)
  check(config)
  const { feedforwardModules: modules, init: ones } = config
  return {
    kind: "site",
    specVersion: 1,
    name: "ia3",
    config,
    sites: ["linear"],
    mergeable: true,
    format,
    init({ site, init }) {
      const shape = scalesInputs(modules, site) ? [1, site.in] : [site.out, 1]
      return { params: { l: param(ones ? init.ones(shape) : init.normal("l", shape, 1)) } }
    },
    forward(x, next, params, { site }) {
      const l = /** @type {import("@peftjs/core").Tensor} */ (params.l).reshape([-1])
      return scalesInputs(modules, site) ? next(x.mul(l)) : next(x).mul(l)
    },
  }
}
// #endregion

// #region names
/** @type {(modules: readonly string[] | string, site: import("@peftjs/core").Site) => boolean} */
function scalesInputs(modules, { path }) {
  // As PEFT matches them: a string whole, a list by the ends of paths.
  return typeof modules === "string" ? pattern(modules, feedforward).test(path) : modules.some((m) => path.endsWith(m))
}
// #endregion

// #region check
/** @type {(options: Required<Ia3Options>) => void} */
function check({ feedforwardModules: modules, init }) {
  if (typeof modules === "string") pattern(modules, feedforward)
  else if (!Array.isArray(modules) || !modules.every((m) => typeof m === "string"))
    throw new PeftError("E_OPTION", `[ia3] ${feedforward} = ${JSON.stringify(modules)} must be like ["down_proj"]`)
  if (typeof init !== "boolean") throw new PeftError("E_OPTION", `[ia3] init = ${init} must be true or false`)
}
// #endregion

// #region format
/** @type {import("@peftjs/core").AdapterFormat} */
const format = {
  peftType: "IA3",
  defaults: { feedforward_modules: null, init_ia3_weights: true, fan_in_fan_out: false },
  supported: ["feedforward_modules", "init_ia3_weights", "fan_in_fan_out"],
  read: ({ feedforward_modules, init_ia3_weights }) =>
    ia3(/** @type {Ia3Options} */ ({ feedforwardModules: feedforward_modules ?? [], init: init_ia3_weights ?? true })),
  write: ({ config }, sites) => ({
    feedforward_modules: config.feedforwardModules,
    init_ia3_weights: config.init,
    fan_in_fan_out: sites.some((site) => site.fanInFanOut),
  }),
  tensorName: () => "ia3_l",
}
// #endregion

// #region factory
/** IA³ for linear layers. Throws E_OPTION. */
export const ia3 = Object.assign(makeIa3, { format })
export default ia3
// #endregion
