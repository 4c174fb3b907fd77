defmodule Support.Schedulers do
  @moduledoc """
  Keeps the schedulers of a VM from running any other process for a time.
  """

  @doc "Blocks all of them: nothing runs in the VM, as in a NIF that does not return."
  def block(time) do
    :erts_debug.set_internal_state(:available_internal_state, true)
    :erts_debug.set_internal_state(:block, time)
  end

  @doc "Gives each a process that spins, before which no other has its turn."
  def occupy(time) do
    ends = now() + time
    for _ <- 1..System.schedulers(), do: :erlang.spawn_opt(fn -> spin(ends) end, priority: :max)
  end

  defp spin(ends), do: if(now() < ends, do: spin(ends))

  defp now, do: System.monotonic_time(:millisecond)
end
