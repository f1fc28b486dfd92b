//! The calls of our own `Admin`, each handed to the room that answers it.

use tonic::{Request, Response, Status};

use crate::{
    codec::operator::{
        CreateGroupRequest, CreateGroupResponse, CreateTopicRequest, CreateTopicResponse,
        DeleteGroupRequest, DeleteGroupResponse, DeleteTopicRequest, DeleteTopicResponse,
        DescribeGroupRequest, DescribeGroupResponse, DescribeTopicRequest, DescribeTopicResponse,
        ListConsumersRequest, ListConsumersResponse, ListGroupsRequest, ListGroupsResponse,
        ListLiteTopicsRequest, ListLiteTopicsResponse, ListOffsetsRequest, ListOffsetsResponse,
        ListTopicsRequest, ListTopicsResponse, RedriveDeadLettersRequest,
        RedriveDeadLettersResponse, ResetOffsetRequest, ResetOffsetResponse, UpdateGroupRequest,
        UpdateGroupResponse, UpdateTopicRequest, UpdateTopicResponse, admin_server::Admin,
    },
    serve::{
        Front,
        calls::{answer, answers},
    },
};

answers!(
    CreateTopicResponse,
    UpdateTopicResponse,
    DeleteTopicResponse,
    DescribeTopicResponse,
    ListTopicsResponse,
    ListLiteTopicsResponse,
    CreateGroupResponse,
    UpdateGroupResponse,
    DeleteGroupResponse,
    DescribeGroupResponse,
    ListGroupsResponse,
    ListConsumersResponse,
    ListOffsetsResponse,
    ResetOffsetResponse,
    RedriveDeadLettersResponse,
);

#[tonic::async_trait]
impl Admin for Front {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<CreateTopicResponse>, Status> {
        answer(self.on_create_topic(request).await)
    }

    async fn update_topic(
        &self,
        request: Request<UpdateTopicRequest>,
    ) -> Result<Response<UpdateTopicResponse>, Status> {
        answer(self.on_update_topic(request).await)
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        answer(self.on_delete_topic(request).await)
    }

    async fn describe_topic(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<Response<DescribeTopicResponse>, Status> {
        answer(self.on_describe_topic(request).await)
    }

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        answer(self.on_list_topics(request).await)
    }

    async fn list_lite_topics(
        &self,
        request: Request<ListLiteTopicsRequest>,
    ) -> Result<Response<ListLiteTopicsResponse>, Status> {
        answer(self.on_list_lite_topics(request).await)
    }

    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<CreateGroupResponse>, Status> {
        answer(self.on_create_group(request).await)
    }

    async fn update_group(
        &self,
        request: Request<UpdateGroupRequest>,
    ) -> Result<Response<UpdateGroupResponse>, Status> {
        answer(self.on_update_group(request).await)
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        answer(self.on_delete_group(request).await)
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<DescribeGroupResponse>, Status> {
        answer(self.on_describe_group(request).await)
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        answer(self.on_list_groups(request).await)
    }

    async fn list_consumers(
        &self,
        request: Request<ListConsumersRequest>,
    ) -> Result<Response<ListConsumersResponse>, Status> {
        answer(self.on_list_consumers(request).await)
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        answer(self.on_list_offsets(request).await)
    }

    async fn reset_offset(
        &self,
        request: Request<ResetOffsetRequest>,
    ) -> Result<Response<ResetOffsetResponse>, Status> {
        answer(self.on_reset_offset(request).await)
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        answer(self.on_redrive(request).await)
    }
}
