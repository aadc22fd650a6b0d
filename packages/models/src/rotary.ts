/**
 * Angles of rotary position embeddings, computed on the host in float32 step by step as transformers does, so that they are equal to its own.
 * Knows configs and positions, no tensors of a model.
 */
import type { Config } from "./config.ts"

const f32 = Math.fround

/** Turns of each pair of dimensions per position, [headDim / 2], and what they were scaled by. Throws E_CONFIG. */
export function rotaryFrequencies(config: Config, headDim: number): Float32Array {
  if (headDim % 2 !== 0) config.refuse("head_dim", `rotary embeddings need an even one, got ${headDim}`)
  // transformers 5 writes rope_parameters with rope_theta inside; transformers 4 rope_scaling (often null) and rope_theta beside it.
  const rope = config.section("rope_scaling") ?? config.section("rope_parameters")
  const theta = (rope?.values.rope_theta == null ? config : rope).positive("rope_theta", 10_000)
  const partial = (rope?.values.partial_rotary_factor == null ? config : rope).positive("partial_rotary_factor", 1)
  if (partial !== 1) config.refuse("partial_rotary_factor", "only 1 is supported")
  const base = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / f32(f32(theta) ** f32((2 * i) / headDim)))
  if (!rope) return base
  const key = rope.values.rope_type == null && rope.values.type != null ? "type" : "rope_type"
  const kind = rope.text(key, "default")
  const scale = scalings[kind] ?? rope.refuse(key, `supported are ${Object.keys(scalings).join(", ")}`)
  return scale(base, rope, config)
}

type Scaling = (base: Float32Array, rope: Config, config: Config) => Float32Array

/** By rope_type (modeling_rope_utils.py, transformers 5.23). */
const scalings: Readonly<Record<string, Scaling>> = {
  default: (base) => base,
  linear(base, rope) {
    const factor = rope.positive("factor")
    return base.map((frequency) => frequency / factor)
  },
  llama3(base, rope, config) {
    const factor = rope.positive("factor")
    const low = rope.positive("low_freq_factor")
    const high = rope.positive("high_freq_factor")
    if (high <= low) rope.refuse("high_freq_factor", `it must be larger than low_freq_factor, ${low}`)
    const original = [config, rope].find((c) => c.values.original_max_position_embeddings != null)
    const context = original?.whole("original_max_position_embeddings") ?? config.whole("max_position_embeddings")
    return base.map((frequency) => {
      const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI))
      if (wavelength > context / low) return frequency / factor
      if (wavelength < context / high) return frequency
      const smooth = f32(f32(f32(f32(1 / wavelength) * context) - low) / (high - low))
      return f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency)
    })
  },
}

/** Cosines and sines, each [positions, frequencies] row-major. */
export function rotaryTables(
  frequencies: Float32Array,
  positions: Int32Array,
): { cos: Float32Array; sin: Float32Array } {
  const n = frequencies.length
  const cos = new Float32Array(positions.length * n)
  const sin = new Float32Array(positions.length * n)
  positions.forEach((position, row) => {
    for (let i = 0; i < n; i++) {
      const angle = f32(position * (frequencies[i] as number))
      cos[row * n + i] = Math.cos(angle)
      sin[row * n + i] = Math.sin(angle)
    }
  })
  return { cos, sin }
}
