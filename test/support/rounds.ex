defmodule Support.Rounds do
  @moduledoc """
  How often a test that depends on chance is repeated, and how long it may take.

  By default often enough to find a broken rule, on a machine that may be busy. With `EMBEDDED_EPMD_ROUNDS=full` often
  enough to find a rare fault, alone on the machine, and within the promised times.
  """

  # The factor by which a busy machine may exceed the promised times.
  @slack 50

  @doc "The first number, or the second one with EMBEDDED_EPMD_ROUNDS=full."
  def rounds(few, full), do: if(full?(), do: full, else: few)

  @doc "The promised milliseconds with EMBEDDED_EPMD_ROUNDS=full, a multiple of them otherwise."
  def limit(milliseconds), do: rounds(milliseconds * @slack, milliseconds)

  @doc "Whether EMBEDDED_EPMD_ROUNDS is full."
  def full? do
    case System.get_env("EMBEDDED_EPMD_ROUNDS", "") do
      "full" -> true
      "" -> false
      other -> raise "EMBEDDED_EPMD_ROUNDS can be \"full\" or unset, but is #{inspect(other)}"
    end
  end
end
