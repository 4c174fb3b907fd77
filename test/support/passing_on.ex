defmodule Support.PassingOn do
  @moduledoc """
  A discovery module of a user's own, which passes all on to ours.
  """

  alias EmbeddedEpmd.Discovery

  defdelegate start_link, to: Discovery
  defdelegate register_node(name, port, family), to: Discovery
  defdelegate port_please(name, host, timeout), to: Discovery
  defdelegate address_please(name, host, family), to: Discovery
  defdelegate listen_port_please(name, host), to: Discovery
  defdelegate names(host), to: Discovery
end
