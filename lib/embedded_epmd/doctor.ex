defmodule EmbeddedEpmd.Doctor do
  @moduledoc false
  # Examines this VM and its host, and formats the findings.

  alias EmbeddedEpmd.Doctor.{Facts, Findings}

  @type finding :: EmbeddedEpmd.finding()

  @doc "The findings about this VM and its host."
  @spec examine() :: [finding()]
  def examine, do: Findings.judge(Facts.gather())

  @doc "The findings as text."
  @spec format([finding()]) :: String.t()
  def format(findings), do: Enum.map_join(findings, &line/1)

  defp line(%{status: :ok, what: what}), do: "ok       #{what}\n"

  defp line(%{status: status} = finding),
    do: mark(status) <> "#{finding.what}\n         #{finding.why}\n         Do: #{finding.fix}\n"

  defp mark(:warning), do: "warning  "
  defp mark(:problem), do: "PROBLEM  "
end
