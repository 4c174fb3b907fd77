defmodule EmbeddedEpmd.Server.Settings do
  @moduledoc false
  # The settings of a server that runs already. A release's server starts before all sources of settings can be read
  # (`t:EmbeddedEpmd.option/0`), so these may change some of them, and contradict what cannot be changed any more.

  alias EmbeddedEpmd.Boot.{Config, Environment, Exposure, Interface, Lifecycle, Ports}
  alias EmbeddedEpmd.Native

  @doc """
  Applies the current settings to a running server. One that is not `open?` to other hosts keeps to its loopback
  addresses. Refuses settings that cannot be changed any more.
  """
  @spec configure(Native.server(), open? :: boolean()) :: :ok | {:error, String.t()}
  def configure(server, open?) do
    with {:ok, config} <- Lifecycle.config(),
         :ok <- same_port(config, Native.status(server).port),
         :ok <- same_advertised(config.advertised_port, Lifecycle.registered_port()),
         :ok <- same_ports(config.ports, Lifecycle.planned()),
         :ok <- same_local(config.local, Interface.local(), Environment.distributed?()) do
      if not (Environment.routed?() or Lifecycle.registered?()), do: Native.name_node(server, if(open?, do: own_name()))

      case Native.configure(server, Exposure.limit(config, open?)) do
        {:ok, :ok} -> :ok
        {:error, {_, sentence}} -> {:error, "embedded_epmd: " <> sentence}
      end
    end
  end

  defp own_name, do: node() |> Atom.to_string() |> String.split("@") |> hd()

  # The nodes are registered at this port, so a server never changes it. A default contradicts nothing: the port may
  # be that of a socket unit.
  defp same_port(%{port: port}, port), do: :ok
  defp same_port(%{port_chosen: false}, _), do: :ok

  defp same_port(%{port: wanted}, port) do
    {:error,
     "embedded_epmd: #{source(:port)} says #{wanted}, but this VM's server runs on port #{port}: " <>
       "it starts with the node, before runtime.exs and the child's options are read. " <>
       "Set ERL_EPMD_PORT, or -embedded_epmd port #{wanted} in vm.args, or the port in config.exs"}
  end

  defp same_advertised(wanted, registered) when wanted in [nil, registered] or registered == :none, do: :ok

  defp same_advertised(wanted, registered) do
    {:error,
     "embedded_epmd: #{source(:advertised_port)} says #{wanted}, but this node is registered with port #{registered}: " <>
       "it registers when it starts, before runtime.exs and the child's options are read. " <>
       "Set -embedded_epmd advertised_port #{wanted} in vm.args, or advertised_port in config.exs"}
  end

  # Where the node listens is settled when it starts.
  defp same_ports(nil, _planned), do: :ok

  defp same_ports(range, {planned, listener}) when planned != range do
    if Process.whereis(:net_kernel) == listener, do: {:error, listens_already(range)}, else: :ok
  end

  defp same_ports(range, :none) do
    if Environment.distributed?() and not Environment.routed?(), do: {:error, listens_already(range)}, else: :ok
  end

  defp same_ports(_range, _planned), do: :ok

  defp listens_already(range) do
    range = Ports.text(range)

    "embedded_epmd: #{source(:ports)} says #{range}, but this node has chosen its port already: it " <>
      "listens when it starts, before runtime.exs and the child's options are read, and only -epmd_module " <>
      "Elixir.EmbeddedEpmd.Discovery knows the setting. Set -embedded_epmd ports \"#{range}\" in vm.args, or ports in " <>
      "config.exs"
  end

  # The distribution listens already.
  defp same_local(wanted, local, distributed?) when wanted in [nil, local] or not distributed?, do: :ok

  defp same_local(wanted, _local, _distributed?) do
    {:error,
     "embedded_epmd: #{source(:local)} says #{wanted}, but this node listens without it: it does so when " <>
       "it starts, before runtime.exs and the child's options are read. " <>
       "Set -embedded_epmd local #{wanted} in vm.args, or local in config.exs"}
  end

  defp source(key), do: Config.source(key, Lifecycle.options())
end
