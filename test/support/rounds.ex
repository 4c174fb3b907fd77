defmodule EmbeddedEpmd.Rounds do
  @moduledoc """
  How often a test repeats what chance plays a part in, and how long that may take.

  By default as often as it takes to find a rule that is broken, beside whatever else the machine does. With
  `EMBEDDED_EPMD_ROUNDS=full` as often as it takes to find a rare fault, alone on the machine, and within the times that
  are promised.
  """

  # For a machine that has many times more to do than it can.
  @patience 50

  @doc "The one number, or in full the other."
  def rounds(few, full), do: if(full?(), do: full, else: few)

  @doc "So many milliseconds in full; otherwise more."
  def limit(milliseconds), do: rounds(milliseconds * @patience, milliseconds)

  @doc "Whether the tests run in full."
  def full? do
    case System.get_env("EMBEDDED_EPMD_ROUNDS", "") do
      "full" -> true
      "" -> false
      other -> raise "EMBEDDED_EPMD_ROUNDS can be \"full\" or unset, but is #{inspect(other)}"
    end
  end
end
