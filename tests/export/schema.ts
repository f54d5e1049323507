// What an exported dashboard has to be, by Grafana's own schema. The test appends the dashboard.
import type { Dashboard, DataQuery, Panel, RowPanel } from "@grafana/schema";
import type * as BarChart from "@grafana/schema/dist/esm/raw/composable/barchart/panelcfg/x/BarChartPanelCfg_types.gen";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as Table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the values of TypeScript's enums, not their names.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

// Panel says of options and custom fields only that they are objects: each plugin knows its own.
interface Options {
  barchart: BarChart.Options;
  stat: Stat.Options;
  table: Table.Options;
  timeseries: TimeSeries.Options;
}
interface Custom {
  barchart: BarChart.FieldConfig;
  stat: Record<string, never>;
  table: Table.FieldConfig;
  timeseries: TimeSeries.FieldConfig;
}

// Prometheus' query is no part of the package: what its plugin reads beside a DataQuery.
interface Query extends DataQuery {
  editorMode: "code";
  expr: string;
  format: "table" | "time_series";
  instant: boolean;
  legendFormat: string;
  range: boolean;
}
