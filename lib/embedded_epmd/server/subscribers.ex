defmodule EmbeddedEpmd.Server.Subscribers do
  @moduledoc false
  # The receivers of changes: processes, and :telemetry if that library is loaded.
  #
  # A subscriber's mailbox is its queue. While it is full, changes are counted instead of sent, and the count is sent
  # when there is room again.

  alias EmbeddedEpmd.Native

  # How many messages, of any kind, may wait in a subscriber's mailbox.
  @max_queue 1_000

  @enforce_keys [:telemetry?]
  defstruct [:telemetry?, processes: %{}]

  @type t :: %__MODULE__{telemetry?: boolean(), processes: %{pid() => map()}}

  @spec new() :: t()
  def new, do: %__MODULE__{telemetry?: Code.ensure_loaded?(:telemetry)}

  @doc "Adds a process that knows all changes up to this number. Replaces an earlier subscription of the process."
  @spec add(t(), pid(), non_neg_integer()) :: t()
  def add(subscribers, pid, number) do
    subscribers = remove(subscribers, pid)
    put_in(subscribers.processes[pid], %{monitor: Process.monitor(pid), after: number, missed: 0})
  end

  @spec remove(t(), pid()) :: t()
  def remove(subscribers, pid) do
    {process, processes} = Map.pop(subscribers.processes, pid)
    if process, do: Process.demonitor(process.monitor, [:flush])
    %{subscribers | processes: processes}
  end

  @spec any?(t()) :: boolean()
  def any?(subscribers), do: subscribers.telemetry? or subscribers.processes != %{}

  @spec missed?(t()) :: boolean()
  def missed?(subscribers), do: Enum.any?(subscribers.processes, fn {_, process} -> process.missed > 0 end)

  @doc "Sends these changes to all subscribers, and counts those that were lost after them."
  @spec notify(t(), [{pos_integer(), Native.change()}], non_neg_integer()) :: t()
  def notify(subscribers, changes, lost) do
    for {_, change} <- changes, subscribers.telemetry?, do: execute(event(change))
    if lost > 0 and subscribers.telemetry?, do: execute({:overflow, lost})

    each(subscribers, fn pid, process ->
      process = Enum.reduce(changes, process, &notify_one(&2, pid, &1))
      %{process | missed: process.missed + lost}
    end)
  end

  @doc "Sends these changes of another server, or of the end of one. Changes up to this number are then skipped."
  @spec reset(t(), [Native.change()], non_neg_integer()) :: t()
  def reset(subscribers, changes, number) do
    subscribers
    |> each(fn _pid, process -> %{process | after: 0} end)
    |> notify(Enum.map(changes, &{1, &1}), 0)
    |> each(fn _pid, process -> %{process | after: number} end)
  end

  @doc "Sends the count of missed changes to the subscribers whose mailbox has room again."
  @spec notify_missed(t()) :: t()
  def notify_missed(subscribers) do
    each(subscribers, fn pid, process -> if room?(pid), do: send_overflow(process, pid), else: process end)
  end

  defp each(subscribers, function) do
    %{subscribers | processes: Map.new(subscribers.processes, fn {pid, process} -> {pid, function.(pid, process)} end)}
  end

  # Already part of the snapshot.
  defp notify_one(%{after: known} = process, _pid, {number, _change}) when number <= known, do: process

  defp notify_one(process, pid, {_number, change}) do
    if room?(pid) do
      process = send_overflow(process, pid)
      send(pid, {:embedded_epmd, event(change)})
      process
    else
      %{process | missed: process.missed + 1}
    end
  end

  defp send_overflow(%{missed: 0} = process, _pid), do: process

  defp send_overflow(process, pid) do
    send(pid, {:embedded_epmd, {:overflow, process.missed}})
    %{process | missed: 0}
  end

  defp room?(pid) do
    case Process.info(pid, :message_queue_len) do
      {:message_queue_len, length} -> length < @max_queue
      nil -> false
    end
  end

  defp event({:registered, name, port, creation, user}),
    do: {:registered, %{name: name, port: port, creation: creation, user: user}}

  defp event({:unregistered, name, port}), do: {:unregistered, %{name: name, port: port}}
  defp event({:refused, name, reason}), do: {:refused, %{name: name, reason: reason}}
  defp event({:role, role}), do: {:role, role}
  defp event({:table, where}), do: {:table, where}

  # :telemetry is no dependency, so a direct call would not compile without a warning.
  defp execute({:role, role}), do: execute([:role, :changed], 1, %{role: role})
  defp execute({:table, where}), do: execute([:table, :lost], 1, %{table: where})
  defp execute({:overflow, lost}), do: execute([:events, :lost], lost, %{})
  defp execute({kind, metadata}), do: execute([:node, kind], 1, metadata)

  defp execute(event, count, metadata),
    do: apply(:telemetry, :execute, [[:embedded_epmd | event], %{count: count}, metadata])
end
