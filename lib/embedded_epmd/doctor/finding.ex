defmodule EmbeddedEpmd.Doctor.Finding do
  @moduledoc false
  # A finding says what was found and, unless it is ok, why that matters and what to do. Names of nodes and programs in
  # it are chosen by others.

  alias EmbeddedEpmd.Boot.Printable

  @type t :: EmbeddedEpmd.finding()

  @doc "A finding that needs no action."
  @spec ok(String.t()) :: t()
  def ok(what), do: %{status: :ok, what: Printable.text(what), why: nil, fix: nil}

  @spec warning(String.t(), String.t(), String.t()) :: t()
  def warning(what, why, action), do: finding(:warning, what, why, action)

  @spec problem(String.t(), String.t(), String.t()) :: t()
  def problem(what, why, action), do: finding(:problem, what, why, action)

  defp finding(status, what, why, action),
    do: %{status: status, what: Printable.text(what), why: Printable.text(why), fix: Printable.text(action)}
end
