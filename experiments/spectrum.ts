/**
 * The singular values of what training added, per projection (figure 6 of the MoRA paper): collected from the results of the other
 * experiments, which measure them on their chosen runs. What has not been run yet is run.
 */
import { continual } from "./continual.ts"
import type { Spectrum } from "./deltas.ts"
import { instruction } from "./instruction.ts"
import { barChart } from "./plot.ts"
import { pretraining } from "./pretraining.ts"
import { type Options, type Report, read, table, write } from "./report.ts"
import { uuid } from "./uuid.ts"

const sources = { uuid, continual, pretraining, instruction }

export async function spectrum(options: Options): Promise<Report> {
  const reports: Report[] = []
  for (const [name, run] of Object.entries(options.quick ? { uuid } : sources))
    reports.push(read(name, options.folder) ?? (await run(options)))
  const spectra = Object.fromEntries(
    reports.flatMap(({ name, spectra: own }) =>
      Object.entries(own).map(([variant, rows]) => [`${name}: ${variant}`, rows]),
    ),
  )
  const report: Report = {
    name: "spectrum",
    scale:
      "The paper: models of 250 million parameters pretrained for 10,000 steps at r 128, where MoRA and ReMoRA have far more singular values above 0.1 than LoRA and ReLoRA. Here: the models of the other experiments.",
    ...{ seed: options.seed, quick: options.quick, seconds: 0, runs: [], spectra },
    found: { means: Object.fromEntries(Object.entries(spectra).map(([name, rows]) => [name, means(rows)])) },
  }
  const panels = reports.map(({ name, spectra: own }) => ({
    title: `${name}: singular values above 0.1, mean over layers and projections`,
    groups: Object.entries(own).map(([variant, rows]) => ({
      name: variant,
      values: [means(rows).above, means(rows).effectiveRank],
    })),
  }))
  write(report, barChart("Singular values of what was learnt", ["above 0.1", "effective rank"], panels), options.folder)
  for (const { name, spectra: own } of reports) {
    console.log(`\n${name}: singular values above 0.1 / effective rank\n`)
    const projections = Object.values(own)[0]?.map(({ projection }) => projection) ?? []
    console.log(
      table(
        ["method", ...projections],
        Object.entries(own).map(([variant, rows]) => [
          variant,
          ...rows.map(
            ({ above, effectiveRank, full }) => `${above.toFixed(0)} / ${effectiveRank.toFixed(0)} of ${full}`,
          ),
        ]),
      ),
    )
  }
  console.log(`\n${report.scale}`)
  return report
}

function means(rows: readonly Spectrum[]): { above: number; effectiveRank: number } {
  const mean = (key: "above" | "effectiveRank"): number => rows.reduce((sum, row) => sum + row[key], 0) / rows.length
  return { above: mean("above"), effectiveRank: mean("effectiveRank") }
}
