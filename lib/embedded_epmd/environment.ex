defmodule EmbeddedEpmd.Environment do
  @moduledoc false
  # What kind of VM this is: what OTP, the command line and a release's script say of it. It runs while the VM boots, so
  # it uses plain functions only.

  alias EmbeddedEpmd.Discovery

  # Commands of a release's script that boot a VM beside the release, for a moment.
  @client_commands [~c"eval", ~c"rpc", ~c"remote", ~c"stop", ~c"pid", ~c"restart"]

  @doc "Whether OTP routes to `Discovery` when this VM becomes a node."
  @spec routed?() :: boolean()
  def routed? do
    :net_kernel.epmd_module() == Discovery
  rescue
    # Flag and parameter stand beside each other, or the parameter is no atom: no node starts here.
    _ -> false
  end

  @doc """
  Has OTP route to `Discovery` from now on, where nothing else has been said; whether it does.

  OTP 27.2 and later look at the parameter of `kernel`. Beside the flag it would keep the VM from becoming a node.
  """
  @spec route() :: boolean()
  def route do
    if :init.get_argument(:epmd_module) == :error and :application.get_env(:kernel, :epmd_module) == :undefined do
      :application.set_env(:kernel, :epmd_module, Discovery)
      routed?() or unroute()
    else
      routed?()
    end
  end

  defp unroute do
    :application.unset_env(:kernel, :epmd_module)
    false
  end

  @doc """
  Whether this VM is booted beside others, for a moment, and must not serve: it boots a clean script, or it was booted by
  such a command of a release.
  """
  @spec client?() :: boolean()
  def client? do
    case :init.get_argument(:boot) do
      {:ok, [[script | _] | _]} -> clean?(:filename.basename(script)) or (releases?(script) and client_command?())
      _ -> false
    end
  end

  defp clean?(name), do: name == ~c"start_clean" or name == :os.getenv(~c"RELEASE_BOOT_SCRIPT_CLEAN")

  # Every VM that a release's VM starts inherits the command; only the release's own was booted by it.
  defp releases?(script) do
    with [_ | _] = root <- :os.getenv(~c"RELEASE_ROOT"),
         [_ | _] = version <- :os.getenv(~c"RELEASE_VSN") do
      :filename.dirname(script) == :filename.join([root, ~c"releases", version])
    else
      _ -> false
    end
  end

  defp client_command?, do: :lists.member(:os.getenv(~c"RELEASE_COMMAND"), @client_commands)

  @doc "Whether this VM is a node, or about to get a name from the first node that it connects to."
  @spec distributed?() :: boolean()
  def distributed?, do: :erlang.whereis(:net_kernel) != :undefined

  @doc "Whether the node listens on a port that all others know, so that it needs no EPMD."
  @spec fixed_port?() :: boolean()
  def fixed_port? do
    :init.get_argument(:erl_epmd_port) != :error or :erl_epmd.listen_port_please(~c"", ~c"") != {:ok, 0}
  end

  @doc "Whether `kernel` itself is still booting: the VM ends if the distribution does not start now."
  @spec booting?() :: boolean()
  def booting?, do: :erlang.whereis(:kernel_safe_sup) == :undefined

  @doc "Whether the VM is on its way down."
  @spec stopping?() :: boolean()
  def stopping?, do: match?({:stopping, _}, :init.get_status())

  @doc "Whether the distribution runs over IPv6, so that OTP's client registers at ::1."
  @spec inet6?() :: boolean()
  def inet6? do
    case :init.get_argument(:proto_dist) do
      {:ok, [[protocol | _] | _]} -> :lists.prefix(~c"inet6", protocol)
      _ -> false
    end
  end
end
