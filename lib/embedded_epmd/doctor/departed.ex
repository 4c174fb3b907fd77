defmodule EmbeddedEpmd.Doctor.Departed do
  @moduledoc false
  # Judges names that came and went: whose VM ends right after it has registered. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Finding

  # How long a name is of interest after it has left, in seconds, and how many are shown.
  @recent 600
  @shown 5
  @often 2

  @spec judge(map()) :: [Finding.t()]
  def judge(%{departed: departed, now: now, dumps: dumps}) do
    departed
    |> Enum.filter(&loops?(&1, now))
    |> Enum.take(@shown)
    |> Enum.map(&warning(sentence(&1, now), why(&1), remedy(dumps[&1.name])))
  end

  @doc "Whether a name came and went several times until a moment ago."
  @spec loops?(EmbeddedEpmd.departed(), DateTime.t()) :: boolean()
  def loops?(departed, now), do: departed.times >= @often and DateTime.diff(now, departed.left) <= @recent

  @doc "When a name left, after how long, and how often."
  @spec sentence(EmbeddedEpmd.departed(), DateTime.t()) :: String.t()
  def sentence(departed, now) do
    lasted = span(DateTime.diff(departed.left, departed.registered, :millisecond))
    ago = span(DateTime.diff(now, departed.left, :millisecond))
    "#{departed.name} was registered until #{ago} ago, for #{lasted}#{times(departed)}."
  end

  defp times(%{times: times, since: since, left: left}) when times >= @often,
    do: ", #{times} times in #{span(DateTime.diff(left, since, :millisecond))}"

  defp times(_departed), do: ""

  @doc "What that means."
  @spec why(EmbeddedEpmd.departed()) :: String.t()
  def why(%{times: 0}), do: "Its VM ended, or its distribution."
  def why(%{times: 1}), do: "Its VM ended, or its distribution, right after it had registered."
  def why(_departed), do: "Its VM ended, or its distribution, each time right after it had registered."

  @doc "Where to look, given where a VM of that name would write its crash dump, if that is known."
  @spec remedy(Path.t() | nil) :: String.t()
  def remedy(nil) do
    "Look at its log, and at its erl_crash.dump: in its working directory, or where ERL_CRASH_DUMP says."
  end

  def remedy(dump), do: "Look at its log, and at its crash dump: #{dump}"

  defp span(milliseconds) when milliseconds < 10_000,
    do: :erlang.float_to_binary(max(milliseconds, 0) / 1_000, decimals: 1) <> " s"

  defp span(milliseconds) when milliseconds < 120_000, do: "#{div(milliseconds, 1_000)} s"
  defp span(milliseconds) when milliseconds < 7_200_000, do: "#{div(milliseconds, 60_000)} minutes"
  defp span(milliseconds), do: "#{div(milliseconds, 3_600_000)} hours"
end
