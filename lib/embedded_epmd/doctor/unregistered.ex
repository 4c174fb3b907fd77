defmodule EmbeddedEpmd.Doctor.Unregistered do
  @moduledoc false
  # Judges nodes of this host that run and are not registered: what brings them back without a restart. Pure.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.{Finding, Linux, VmArgs}

  # That of OTP 23.3. Since then OTP's client registers again after its EPMD has gone.
  @returns_since [11, 2]
  @ours "Elixir.EmbeddedEpmd.Discovery"

  @doc "The VMs that were started as nodes, ask the EPMD of this port, and are not among these names."
  @spec of([Linux.vm()], {:ok, [{String.t(), :inet.port_number()}]} | {:error, atom()}, :inet.port_number()) ::
          [Linux.vm()]
  def of(vms, {:ok, names}, port), do: Enum.filter(vms, &(asks?(&1, port) and not registered?(&1, names, vms)))
  # Without an EPMD nobody is registered, which other findings say.
  def of(_vms, {:error, _}, _port), do: []

  defp asks?(%{flags: flags}, port) do
    # Another discovery module alone decides where its nodes register.
    VmArgs.value(flags, "-dist_listen") != "false" and module(flags) in [nil, "erl_epmd", @ours] and
      not VmArgs.no_epmd?(flags) and
      (VmArgs.value(flags, "-epmd_port") || "4369") == Integer.to_string(port)
  end

  # The port may be another one that is advertised. If it is one of another VM, that one has the name.
  defp registered?(vm, names, vms) do
    short = short(vm)
    port = Enum.find_value(names, fn {name, port} -> if name == short, do: port end)
    port != nil and (vm.ports == :unknown or port in vm.ports or not Enum.any?(vms, &has?(&1, port)))
  end

  defp has?(%{ports: :unknown}, _port), do: false
  defp has?(%{ports: ports}, port), do: port in ports

  defp short(%{node: node}), do: node |> String.split("@") |> hd()

  @spec judge(map()) :: [Finding.t()]
  def judge(%{unregistered: vms, port: port}), do: Enum.map(vms, &finding(&1, port))

  @doc "The finding about one such VM, on a host whose EPMD has this port."
  @spec finding(Linux.vm(), :inet.port_number()) :: Finding.t()
  def finding(vm, port) do
    warning(
      "#{vm.node} runs (pid #{vm.pid}#{listens(vm)}) and is not registered on port #{port}.",
      "No node finds it, and neither do bin/app rpc, remote, stop and pid. #{reason(vm)}",
      remedy(vm)
    )
  end

  defp listens(%{ports: [_ | _] = ports}), do: ", listens on port #{Enum.join(ports, ", ")}"
  defp listens(_vm), do: ""

  defp reason(vm) do
    cond do
      vm.stopped -> "It is stopped, by SIGSTOP or a debugger, and does nothing."
      fixed?(vm) -> "It has a fixed port (-erl_epmd_port): it registers when it starts, and never again."
      ours?(vm) -> "It registers again by itself as soon as it reaches the owner of the port."
      returns?(vm) -> "OTP's client tries again every 2 seconds, unless it has never been registered."
      true -> "The client of an OTP before 23.3 registers when the node starts, and never again."
    end
  end

  defp remedy(vm) do
    cond do
      vm.stopped ->
        "Let it go on: kill -CONT #{vm.pid}"

      ours?(vm) ->
        "See in its log why it is refused, or whether the owner of the port answers. A restart is not needed."

      true ->
        call(vm)
    end
  end

  # erl_call needs no EPMD for a node of which it is told the port.
  defp call(%{ports: [port | _]} = vm) do
    first = if returns?(vm) and not fixed?(vm), do: "See in the log of the owner whether it is refused. ", else: ""

    first <>
      "It registers without a restart if it is told to, with its cookie: erl_call -c COOKIE -address #{port} " <>
      "-a 'erl_epmd register_node [#{short(vm)}, #{port}]'"
  end

  defp call(_vm), do: "Run this as root or as the user of that process, to learn its port and what brings it back."

  defp fixed?(vm), do: VmArgs.value(vm.flags, "-erl_epmd_port") != nil
  defp ours?(vm), do: module(vm.flags) == @ours
  defp module(flags), do: VmArgs.value(flags, "-epmd_module") || VmArgs.parameter(flags, "epmd_module")
  defp returns?(%{erts: erts}), do: erts == nil or erts >= @returns_since
end
