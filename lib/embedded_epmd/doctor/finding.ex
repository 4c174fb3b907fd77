defmodule EmbeddedEpmd.Doctor.Finding do
  @moduledoc false
  # A finding says what was found and, unless it is ok, why that matters and what to do.

  @type t :: EmbeddedEpmd.finding()

  @doc "A finding that needs no action."
  @spec ok(String.t()) :: t()
  def ok(what), do: %{status: :ok, what: what, why: nil, do: nil}

  @spec warning(String.t(), String.t(), String.t()) :: t()
  def warning(what, why, action), do: %{status: :warning, what: what, why: why, do: action}

  @spec problem(String.t(), String.t(), String.t()) :: t()
  def problem(what, why, action), do: %{status: :problem, what: what, why: why, do: action}
end
