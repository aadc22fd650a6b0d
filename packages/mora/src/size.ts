/** How large MoRA's square matrix is, and how fast it learns. Numbers alone: knows no tensors. */
import { PeftError } from "@peftjs/core"

/** Where it stands and how it is spelled in messages. */
type Place = { readonly path: string; readonly in: number; readonly out: number }

/** R̂ without regard to the layer's width: the root of LoRA's number of parameters, rounded half up, and down to even for rotation. */
function unbounded({ in: width, out }: Place, r: number, rotation: boolean): number {
  const size = Math.trunc(Math.sqrt((width + out) * r) + 0.5)
  return rotation ? size - (size % 2) : size
}

/**
 * The rows and columns of M at a layer, so that M has as many parameters as LoRA of rank `r` (kongds/MoRA, layer.py: rounded half up,
 * where the paper's text rounds down). Throws E_RANK where that exceeds the layer's smaller side.
 */
export function matrixSize(site: Place, r: number, rotation: boolean): number {
  const size = unbounded(site, r, rotation)
  const most = Math.min(site.in, site.out)
  if (size >= 1 && size <= most) return size
  let fits = r
  while (fits > 0 && unbounded(site, fits, rotation) > most) fits--
  const advice = size < 1 || fits < 1 ? `exclude ${site.path}` : `choose r ≤ ${fits} or exclude ${site.path}`
  const problem = size < 1 ? "leaves nothing to train" : `exceeds min(in, out) = ${most}`
  throw new PeftError("E_RANK", `[mora] R = ${size} ${problem} at ${site.path}; ${advice}`)
}

/**
 * A learning rate to begin with for AdamW. The paper's (table 5) are 3e-4 at r = 8 and 5e-5 at r = 256, since nothing divides M by r;
 * between and above them 3e-4 · √(8/r), below 8 that of 8.
 */
export function defaultLearningRate(r: number): number {
  return 3e-4 * Math.sqrt(8 / Math.max(8, r))
}
