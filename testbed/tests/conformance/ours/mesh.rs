//! Routes inside the mesh, between real sidecars: who calls which service port decides, not the host that a request names.
