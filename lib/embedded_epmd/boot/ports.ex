defmodule EmbeddedEpmd.Boot.Ports do
  @moduledoc false
  # Which port a node listens on: one of `:ports`, the same at each start. The owner of the EPMD's port keeps the plan.
  # OTP's daemon keeps none, but it lists the ports of its nodes and of those that left.

  alias EmbeddedEpmd.Boot.{Client, Environment, HostAddress, Log}
  alias EmbeddedEpmd.Native

  @type range :: {:inet.port_number(), :inet.port_number()}

  # For one answer, and for the next owner where the port changes hands, with the pause between; milliseconds.
  @timeout 2_000
  @change_over_timeout 4_000
  @retry_interval 5

  @doc """
  Refuses a range beside another setting that says where the node listens. A fixed port comes first, as it does before
  everything that concerns the EPMD.
  """
  @spec check(range() | nil) :: :ok | {:error, String.t()}
  def check(nil), do: :ok

  def check(range) do
    cond do
      Environment.fixed_port?() ->
        ignored = ["ports (", text(range), ") is ignored, since this node's port is fixed (-erl_epmd_port)"]
        Log.log(:warning, ignored)

      set?(:inet_dist_listen_min) ->
        contradiction(range, "inet_dist_listen_min")

      set?(:inet_dist_listen_max) ->
        contradiction(range, "inet_dist_listen_max")

      true ->
        :ok
    end
  end

  defp set?(parameter), do: :application.get_env(:kernel, parameter) != :undefined

  defp contradiction(range, other) do
    {:error,
     "embedded_epmd: ports (" <>
       text(range) <> ") and the kernel parameter " <> other <> " both set this node's port: remove one of them"}
  end

  @doc """
  The port that a node of this name is to listen on, 0 for any. `epmd` is the port of the EPMD.

  Any port will do for a name that is registered: the node is about to be refused.
  """
  @spec plan(String.t(), range(), :inet.port_number()) :: {:ok, :inet.port_number()} | {:error, String.t()}
  def plan(name, range, epmd) do
    case ask(HostAddress.loopback(), epmd, name, range, now() + @change_over_timeout) do
      :registered ->
        {:ok, 0}

      {0, _} ->
        {:error, "embedded_epmd: no port of " <> text(range) <> " is free for this node: let ports name more"}

      {port, 0} ->
        {:ok, port}

      {port, other} ->
        Log.log(:warning, "another process has a port that was planned for this node", [
          {:planned, :erlang.integer_to_binary(other)},
          {:port, :erlang.integer_to_binary(port)}
        ])

        {:ok, port}
    end
  end

  defp ask(ip, epmd, name, range, deadline) do
    case Client.plan(ip, epmd, name, range, @timeout) do
      {:ok, planned} ->
        planned

      :unknown ->
        plan_alone(ip, epmd, name, range)

      {:error, _} ->
        if now() < deadline, do: again(ip, epmd, name, range, deadline), else: plan_alone(ip, epmd, name, range)
    end
  end

  # The owner may have just ended.
  defp again(ip, epmd, name, range, deadline) do
    :timer.sleep(@retry_interval)
    ask(ip, epmd, name, range, deadline)
  end

  defp plan_alone(ip, epmd, name, range) do
    ports = :lists.map(fn {_name, port} -> port end, listed(Client.names(ip, epmd, @timeout)))
    Native.plan(name, range, ports, listed(Client.departed(ip, epmd, @timeout)))
  end

  defp listed({:ok, nodes}), do: nodes
  defp listed({:error, _}), do: []

  @doc "A range as people write it."
  @spec text(range()) :: String.t()
  def text({first, last}), do: :erlang.integer_to_binary(first) <> ".." <> :erlang.integer_to_binary(last)

  defp now, do: :erlang.monotonic_time(:millisecond)
end
