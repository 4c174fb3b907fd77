defmodule Support.Mailbox do
  @moduledoc """
  A process in a VM of a test that keeps all its messages.
  """

  @doc "Starts one that subscribes to events; returns it and the snapshot."
  def subscribe do
    starter = self()

    pid =
      spawn(fn ->
        send(starter, {self(), EmbeddedEpmd.subscribe()})
        Process.sleep(:infinity)
      end)

    receive do
      {^pid, {:ok, snapshot}} -> {pid, snapshot}
    end
  end

  @doc "Starts one under a name."
  def start(name) do
    pid = spawn(fn -> Process.sleep(:infinity) end)
    Process.register(pid, name)
    pid
  end

  @doc "The messages so far, oldest first."
  def messages(name) when is_atom(name), do: messages(Process.whereis(name))
  def messages(pid), do: pid |> Process.info(:messages) |> elem(1)

  @doc "A logger handler that never returns from an entry of this library."
  def log(%{meta: %{domain: [:embedded_epmd]}}, _config), do: Process.sleep(:infinity)
  def log(_event, _config), do: :ok

  @doc "Starts one that subscribes, and reads its mailbox only after the message `:read`."
  def start_reader do
    starter = self()

    pid =
      spawn(fn ->
        {:ok, _} = EmbeddedEpmd.subscribe()
        send(starter, :subscribed)

        receive do
          :read -> read(0, 0)
        end
      end)

    receive do
      :subscribed -> pid
    end
  end

  @doc "How many events a reader has read, and how many it was told were left out."
  def result(reader) do
    send(reader, {:result, self()})

    receive do
      {:result, read, left_out} -> {read, left_out}
    end
  end

  defp read(events, left_out) do
    receive do
      {:embedded_epmd, {:overflow, count}} ->
        read(events, left_out + count)

      {:embedded_epmd, _} ->
        read(events + 1, left_out)

      {:result, from} ->
        send(from, {:result, events, left_out})
        read(events, left_out)
    end
  end
end
