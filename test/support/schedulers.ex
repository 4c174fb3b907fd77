defmodule Support.Schedulers do
  @moduledoc """
  Keeps the schedulers of a VM from running any other process for a time, in milliseconds.
  """

  alias EmbeddedEpmd.Boot.Lifecycle
  alias EmbeddedEpmd.Native

  @doc "Blocks all of them: nothing runs in the VM, as in a NIF that does not return."
  def block(time) do
    :erts_debug.set_internal_state(:available_internal_state, true)
    :erts_debug.set_internal_state(:block, time)
  end

  @doc """
  Gives each a process that spins, before which no other has its turn. They end sooner if somebody has the server of the
  VM list its names: it still answers.
  """
  def occupy(time) do
    {:ok, server} = Lifecycle.server()
    {ends, listed} = {now() + time, listed(server)}
    for _ <- 1..System.schedulers(), do: :erlang.spawn_opt(fn -> spin(server, listed, ends) end, priority: :max)
  end

  defp spin(server, listed, ends), do: if(now() < ends and listed(server) == listed, do: spin(server, listed, ends))

  defp listed(server), do: Native.metrics(server).names_requests

  defp now, do: System.monotonic_time(:millisecond)
end
